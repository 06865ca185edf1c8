//! The listening sockets of the proxy: those that a predecessor hands over, those that systemd opened,
//! the others newly bound.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Type};

use super::RestartError;
use crate::config::Config;

/// How many connections the system keeps until we take them: all that come at once when a proxy before us
/// starts again, or the system's own bound (`net.core.somaxconn`), if that is less. Of those that find no
/// room, some are broken only once their client has sent its request.
const BACKLOG: i32 = 4096;

/// Whom a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Clients (`listen`).
    Clients,
    /// Operators (`admin.address`).
    Admin,
}

/// What a socket is known by: where the configuration wants it, which port 0 is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SocketName {
    /// Whom it is for.
    pub role: Role,
    /// As in the configuration.
    pub address: SocketAddr,
}

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    /// What it is known by.
    pub name: SocketName,
    /// Itself, non-blocking.
    pub listener: TcpListener,
}

/// All that a configuration asks for.
#[derive(Debug)]
pub struct Sockets(Vec<Socket>);

impl Sockets {
    /// Takes what is wanted from a predecessor's sockets (`inherited`) or from systemd's (`activated`)
    /// and opens the rest. What nobody wants is closed.
    ///
    /// # Errors
    /// If an address can't be listened on.
    pub fn open(
        config: &Config,
        mut inherited: Vec<Socket>,
        mut activated: Vec<TcpListener>,
    ) -> Result<Self, RestartError> {
        let open = |(key, name): (String, SocketName)| {
            let is_wanted = |listener: &TcpListener| is_at(listener, name.address);
            if let Some(found) = inherited.iter().position(|socket| socket.name == name) {
                Ok(inherited.swap_remove(found))
            } else if let Some(found) = activated.iter().position(is_wanted) {
                let listener = activated.swap_remove(found);
                Ok(Socket { name, listener })
            } else {
                Socket::bind(key, name, has_ipv4_beside(config, name.address))
            }
        };
        let sockets = wanted(config).map(open).collect::<Result<_, _>>()?;
        for address in activated.iter().filter_map(|left| left.local_addr().ok()) {
            tracing::warn!(%address, "systemd listens there for us, but the configuration does not");
        }
        Ok(Self(sockets))
    }

    /// Those for clients, in the order of the configuration.
    pub fn clients(&self) -> impl Iterator<Item = &Socket> {
        self.of(Role::Clients)
    }

    /// The one for operators.
    pub fn admin(&self) -> Option<&Socket> {
        self.of(Role::Admin).next()
    }

    pub(super) fn names(&self) -> Vec<SocketName> {
        self.0.iter().map(|socket| socket.name).collect()
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.0
            .iter()
            .map(|socket| socket.listener.as_fd())
            .collect()
    }

    fn of(&self, role: Role) -> impl Iterator<Item = &Socket> {
        self.0.iter().filter(move |socket| socket.name.role == role)
    }
}

impl Socket {
    /// `leaves_ipv4`: `[::]` takes none of it along.
    fn bind(key: String, name: SocketName, leaves_ipv4: bool) -> Result<Self, RestartError> {
        let bind = || -> io::Result<TcpListener> {
            let domain = Domain::for_address(name.address);
            let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if leaves_ipv4 {
                socket.set_only_v6(true)?;
            }
            socket.bind(&name.address.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        };
        let listener = bind().map_err(|error| RestartError::Listen {
            key,
            address: name.address,
            error,
        })?;
        Ok(Self { name, listener })
    }
}

fn is_at(listener: &TcpListener, address: SocketAddr) -> bool {
    listener.local_addr().is_ok_and(|found| found == address)
}

/// Is the same port of some IPv4 address to be listened on, too?
fn has_ipv4_beside(config: &Config, address: SocketAddr) -> bool {
    let mut others = config.listen.iter().map(|listen| listen.address);
    address.is_ipv6() && others.any(|it| it.is_ipv4() && it.port() == address.port())
}

/// Each with its key in the configuration.
fn wanted(config: &Config) -> impl Iterator<Item = (String, SocketName)> {
    let name = |role, address| SocketName { role, address };
    let clients = config.listen.iter().enumerate();
    let clients = clients.map(move |(position, listen)| {
        let key = format!("listen[{position}].address");
        (key, name(Role::Clients, listen.address))
    });
    let admin = name(Role::Admin, config.admin.address);
    clients.chain(std::iter::once(("admin.address".to_owned(), admin)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Surroundings};

    fn config(listen: &[&str]) -> Config {
        let listen: Vec<_> = listen
            .iter()
            .map(|address| format!("  - address: {address}\n"))
            .collect();
        let text = format!(
            "listen:\n{}admin: {{address: '127.0.0.1:0'}}\npool:\n  hosts:\n    - {{name: a, url: 'http://a'}}\n",
            listen.concat()
        );
        let surroundings = Surroundings {
            variable: &|_| None,
            folder: std::path::Path::new(""),
        };
        config::parse(&text, &surroundings).unwrap()
    }

    fn addresses(sockets: &Sockets) -> Vec<SocketAddr> {
        sockets
            .0
            .iter()
            .map(|socket| socket.listener.local_addr().unwrap())
            .collect()
    }

    #[test]
    fn what_is_wanted_again_is_kept_and_the_rest_is_closed() {
        let old = Sockets::open(
            &config(&["127.0.0.1:0", "127.0.0.1:0"]),
            Vec::new(),
            Vec::new(),
        )
        .unwrap();
        let before = addresses(&old);
        let dropped = before[1];

        let new = Sockets::open(&config(&["127.0.0.1:0"]), old.0, Vec::new()).unwrap();

        assert_eq!(addresses(&new), [before[0], before[2]]);
        assert!(std::net::TcpStream::connect(dropped).is_err());
    }

    #[test]
    fn what_is_new_is_bound() {
        let old = Sockets::open(&config(&["127.0.0.1:0"]), Vec::new(), Vec::new()).unwrap();
        let before = addresses(&old);
        let new =
            Sockets::open(&config(&["127.0.0.1:0", "127.0.0.2:0"]), old.0, Vec::new()).unwrap();
        let after = addresses(&new);
        assert_eq!((after[0], after[2]), (before[0], before[1]));
        assert_eq!(after[1].ip().to_string(), "127.0.0.2");
        assert_eq!(new.clients().count(), 2);
        assert!(new.admin().is_some());
    }

    #[test]
    fn both_families_have_their_own_socket_at_one_port() {
        let Ok(free) = TcpListener::bind("[::]:0") else {
            return; // No IPv6 here.
        };
        let port = free.local_addr().unwrap().port();
        drop(free);
        let both = [format!("0.0.0.0:{port}"), format!("'[::]:{port}'")];
        for order in [[0, 1], [1, 0]] {
            let listen = order.map(|position: usize| both[position].as_str());
            let sockets = Sockets::open(&config(&listen), Vec::new(), Vec::new()).unwrap();
            assert_eq!(addresses(&sockets)[order[0]].ip().to_string(), "0.0.0.0");
        }
        let alone = Sockets::open(&config(&[&both[1]]), Vec::new(), Vec::new()).unwrap();
        let ipv4 = std::net::TcpStream::connect(("127.0.0.1", port));
        assert!(ipv4.is_ok(), "[::] alone takes IPv4 along: {alone:?}");
    }

    /// Nobody accepts, so that each connection stays in the system's queue.
    #[test]
    fn a_burst_of_connections_finds_room() {
        let sockets = Sockets::open(&config(&["127.0.0.1:0"]), Vec::new(), Vec::new()).unwrap();
        let address = addresses(&sockets)[0];
        let patience = std::time::Duration::from_secs(20);
        let burst: Result<Vec<_>, _> = (0..300)
            .map(|_| std::net::TcpStream::connect_timeout(&address, patience))
            .collect();
        assert_eq!(burst.unwrap().len(), 300);
    }

    #[test]
    fn what_systemd_opened_is_used_where_it_is_wanted() {
        let open = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (wanted, unwanted) = (open(), open());
        let (address, dropped) = (wanted.local_addr().unwrap(), unwanted.local_addr().unwrap());

        let config = config(&[&address.to_string()]);
        let sockets = Sockets::open(&config, Vec::new(), vec![unwanted, wanted]).unwrap();

        assert_eq!(addresses(&sockets)[0], address);
        assert!(std::net::TcpStream::connect(dropped).is_err());
    }
}
