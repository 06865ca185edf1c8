//! What audits have shown, and files of what is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use super::client::{Client, Where};
use super::failure::{self, Failure};
use super::operate::{POOL, in_path};
use super::print;
use crate::admin::view::{AuditState, HostState, PoolState};
use crate::embedding::{BadReference, Reference, Vectors};
use crate::file;
use crate::pool::Trust;

/// For a file that is new, but for what the user's mask takes away.
const MODE: u32 = 0o666;

pub(super) async fn show(place: Where) -> Result<(), Failure> {
    let pool: PoolState = Client::from_environment(place)?.get(POOL).await?;
    let audits = pool.hosts.iter().flat_map(|host| {
        let told = host.audits.iter();
        told.map(|audit| (host.name.as_str(), audit))
    });
    let lines: Vec<String> = audits.map(|(host, audit)| line(host, audit)).collect();
    if lines.is_empty() {
        return print(if pool.audits {
            "nothing has been audited yet: no host with a model for embeddings in memory has answered\n"
        } else {
            "hosts are not audited; audit.enabled turns audits on\n"
        });
    }
    print(&lines.concat())
}

fn line(host: &str, audit: &AuditState) -> String {
    let AuditState { model, trust, .. } = audit;
    let cosine = audit
        .cosine
        .map_or_else(|| "-".to_owned(), |it| format!("{it:.6}"));
    let space = audit.space.as_deref().unwrap_or("-");
    let why = audit.why.as_deref().unwrap_or("-");
    format!(
        "{host}\t{model}\t{}\t{cosine}\t{space}\t{why}\n",
        trust.as_str()
    )
}

/// Writes what is right, or what `host` says, into the file at `path`. Models that it says nothing of stay there as they are.
pub(super) async fn write(place: Where, path: &Path, host: Option<&str>) -> Result<(), Failure> {
    let client = Client::from_environment(place)?;
    let asked = match host {
        Some(host) => format!("/api/v1/audit/{}", in_path(host)?),
        None => "/api/v1/audit".to_owned(),
    };
    let said: Reference = client.get(&asked).await?;
    let pool: PoolState = client.get(POOL).await?;
    let asked = pool.hosts.iter();
    let asked = asked.filter(|it| host.is_none_or(|host| it.name == host));
    let left_out = left_out(asked, &said);
    if said.models.is_empty() {
        let text = "no hosts agree on any model yet, or audits are off; see gpu-bridge audit, and --from HOST";
        return Err(Failure::Failed(text.to_owned()));
    }
    let (before, is_outdated) = pinned_in(path)?;
    let names = |models: &mut dyn Iterator<Item = &String>| {
        let names: Vec<&str> = models.map(String::as_str).collect();
        names.join(", ")
    };
    let kept = before.keys().filter(|it| !said.models.contains_key(*it));
    let kept: BTreeSet<String> = kept.cloned().collect();
    let mut lines = vec![format!(
        "{}: {}",
        path.display(),
        names(&mut said.models.keys())
    )];
    if !kept.is_empty() {
        lines.push(format!("as they were there: {}", names(&mut kept.iter())));
    }
    if is_outdated {
        lines.push("gone: what it held of another version's texts".to_owned());
    }
    lines.extend(left_out);
    let mut all = before;
    all.extend(said.models);
    let json = serde_json::to_string(&Reference::new(all));
    let json = json.map_err(|error| Failure::Failed(error.to_string()))?;
    if json.len() as u64 >= file::MAX_BYTES {
        let text =
            "would be longer than the 4 MiB that a proxy reads; leave models out of it, by hand";
        return Err(Failure::Failed(format!("{}: {text}", path.display())));
    }
    replace(path, (json + "\n").as_bytes()).map_err(|error| Failure::of_file(path, &error))?;
    if !path.is_file() {
        // It may be standard output, which is to hold nothing else.
        failure::tell(lines.join("\n"));
        return Ok(());
    }
    print(&(lines.join("\n") + "\n"))
}

/// Of which models nothing is written, and why.
fn left_out<'a>(hosts: impl Iterator<Item = &'a HostState>, said: &Reference) -> Vec<String> {
    let mut trusts: BTreeMap<String, Vec<Trust>> = BTreeMap::new();
    for audit in hosts.flat_map(|host| &host.audits) {
        let model = format!("embed:{}", audit.model);
        trusts.entry(model).or_default().push(audit.trust);
    }
    trusts.retain(|model, _| !said.models.contains_key(model));
    let told = trusts.iter().map(|(model, trusts)| {
        let why = match () {
            () if trusts.contains(&Trust::Disputed) => {
                "hosts disagree, and nobody knows which is right"
            }
            () if trusts.contains(&Trust::Deviates) => "what has been said is wrong",
            () if trusts.contains(&Trust::Alone) => "only one host tells",
            () => "nothing that can be judged has been answered",
        };
        format!("not written: {model} ({why})")
    });
    told.collect()
}

/// What the file holds, if there is one, and whether it was of an older version, which is of no use any more.
fn pinned_in(file: &Path) -> Result<(BTreeMap<String, Vectors>, bool), Failure> {
    if !file.is_file() {
        return Ok((BTreeMap::new(), false));
    }
    let content =
        file::read(file, file::PATIENCE).map_err(|error| Failure::of_file(file, &error))?;
    match Reference::read(&content) {
        Ok(reference) => Ok((reference.models, false)),
        Err(BadReference::OtherTexts) => Ok((BTreeMap::new(), true)),
        Err(BadReference::Unreadable) if content.is_empty() => Ok((BTreeMap::new(), false)),
        Err(BadReference::Unreadable) => Err(Failure::Failed(format!(
            "{} is no reference, so it is left alone; name another file, or delete it",
            file.display()
        ))),
    }
}

/// Writes the whole file or nothing, since a proxy may be reading it. In place only what can't be replaced: devices, what
/// is mounted by itself, in folders of others.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    renewed(path, content).or_else(|_| fs::write(path, content))
}

fn renewed(path: &Path, content: &[u8]) -> io::Result<()> {
    let before = match fs::symlink_metadata(path) {
        // What a link names is replaced, not the link.
        Ok(link) if link.is_symlink() => return renewed(&fs::canonicalize(path)?, content),
        Ok(file) if file.is_file() => Some(file),
        Ok(_) => return Err(io::ErrorKind::InvalidInput.into()),
        Err(_) => None,
    };
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let mut new = tempfile::Builder::new()
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    if let Some(before) = before {
        let (owner, group) = (Some(before.uid()), Some(before.gid()));
        fchown(new.as_file(), owner, group)?;
        new.as_file().set_permissions(before.permissions())?;
    }
    new.write_all(content)?;
    new.as_file().sync_all()?;
    new.persist(path)?;
    Ok(())
}
