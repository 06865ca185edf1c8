//! A configuration for the proxy. The defaults are those of a test: everything on loopback, checks in
//! quick succession, and waits that are long enough never to matter unless the test shortens them.

use serde_json::{Map, Value, json};

use super::SimHost;

/// See the module.
#[derive(Clone)]
pub(crate) struct Config(Value);

impl Config {
    /// A pool without hosts, and no keys.
    pub(crate) fn new() -> Self {
        Self(json!({
            "listen": [{"address": "127.0.0.1:0"}],
            "admin": {"address": "127.0.0.1:0"},
            "pool": {"policy": "round-robin", "hosts": []},
            "health": {
                "interval": "100ms", "timeout": "2s", "healthy_after": 1, "unhealthy_after": 2,
            },
            "queue": {"max_waiting": 512, "max_wait": "20s"},
            "timeouts": {
                "connect": "1s", "attempt": "20s", "client_read": "10s", "shutdown": "20s",
            },
            "limits": {"max_body": "32MiB"},
        }))
    }

    /// In front of these hosts, whose keys and APIs it knows.
    pub(crate) fn with_hosts(hosts: &[&SimHost]) -> Self {
        hosts.iter().fold(Self::new(), |config, host| {
            let config = config.host(host.name(), &host.url(), host.api_key().as_deref());
            match host.speaks() {
                None => config,
                Some(server) => config.set_host(host.name(), "api", "openai").set_host(
                    host.name(),
                    "health_path",
                    server.health.0,
                ),
            }
        })
    }

    /// One host more.
    pub(crate) fn host(mut self, name: &str, url: &str, api_key: Option<&str>) -> Self {
        let mut host = json!({"name": name, "url": url});
        if let Some(api_key) = api_key {
            host["api_key"] = api_key.into();
        }
        self.hosts().push(host);
        self
    }

    /// Sets `key` of the host called `name`.
    pub(crate) fn set_host(mut self, name: &str, key: &str, value: impl Into<Value>) -> Self {
        let host = self.hosts().iter_mut().find(|host| host["name"] == name);
        host.expect("a host of that name")[key] = value.into();
        self
    }

    /// Sets `key` of `section`, say `("queue", "max_wait", "1s")`.
    pub(crate) fn set(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        let section = &mut self.0[section];
        if section.is_null() {
            *section = Value::Object(Map::new());
        }
        section[key] = value.into();
        self
    }

    /// Puts `value` in the place of a whole section.
    pub(crate) fn replace(mut self, section: &str, value: impl Into<Value>) -> Self {
        self.0[section] = value.into();
        self
    }

    /// Lets a client in who knows `key`.
    pub(crate) fn client_key(self, name: &str, key: &str) -> Self {
        self.client_keys(json!([{"name": name, "key": key}]))
    }

    /// Lets these clients in, as `auth.keys` has them.
    pub(crate) fn client_keys(self, keys: Value) -> Self {
        self.set("auth", "keys", keys)
    }

    /// Without the host called `name`.
    pub(crate) fn without_host(mut self, name: &str) -> Self {
        self.hosts().retain(|host| host["name"] != name);
        self
    }

    pub(crate) fn to_yaml(&self) -> String {
        serde_yaml::to_string(&self.0).unwrap()
    }

    fn hosts(&mut self) -> &mut Vec<Value> {
        self.0["pool"]["hosts"].as_array_mut().unwrap()
    }
}
