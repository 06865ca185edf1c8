//! What may be downloaded, and from where.

use url::Url;

use super::{Check, hub_cache};
use crate::cli::Cli;
use crate::hub::{Hub, Retry, Token};
use crate::models::DownloadPlan;

/// Whether models are downloaded.
#[derive(Clone, Debug)]
pub enum Downloads {
    /// Nobody asked for it.
    Off,
    /// Asked for, but the machine is declared to be offline.
    Offline,
    /// As planned.
    On(DownloadPlan),
}

impl Check {
    /// Everything is checked even where nothing is downloaded: a wrong value is a mistake anyway.
    pub(super) fn downloads(&mut self, cli: &Cli) -> Downloads {
        let wanted = self.switch("GPU_BRIDGE_DOWNLOAD (--download)", &cli.download);
        let offline = [
            self.switch("HF_HUB_OFFLINE (--offline)", &cli.offline),
            self.switch(
                "TRANSFORMERS_OFFLINE (--transformers-offline)",
                &cli.transformers_offline,
            ),
        ];
        for name in &cli.download_model {
            self.download_model(name, wanted);
        }
        let (endpoint, token) = (self.endpoint(&cli.hub_endpoint), self.token(cli));
        let cache = hub_cache(cli.hub_cache.as_deref(), cli.hub_home.as_deref());
        if wanted && cache.is_none() {
            self.wrong(
                "HF_HUB_CACHE (--hub-cache)",
                "",
                "a folder to download into",
            );
        }
        match (endpoint, cache) {
            (Some(endpoint), Some(cache)) if wanted && !offline.contains(&true) => {
                Downloads::On(DownloadPlan {
                    hub: Hub {
                        endpoint,
                        token,
                        cache,
                        retry: Retry::default(),
                    },
                    models: cli.download_model.clone(),
                })
            }
            _ if wanted => Downloads::Offline,
            _ => Downloads::Off,
        }
    }

    /// The words that the hub's own client knows; an empty one says nothing.
    fn switch(&mut self, setting: &'static str, text: &str) -> bool {
        match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => true,
            "" | "0" | "false" | "no" | "off" => false,
            _ => {
                self.wrong(setting, text, "1 or 0");
                false
            }
        }
    }

    fn download_model(&mut self, name: &str, wanted: bool) {
        if !DownloadPlan::is_name(name) {
            self.wrong(
                "--download-model",
                name,
                "a name on the hub, such as ORG/NAME",
            );
        } else if !wanted {
            self.wrong("--download-model", name, "only together with --download");
        }
    }

    fn endpoint(&mut self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.query().is_none()
                && (url.username(), url.password()) == ("", None)
        });
        if url.is_none() {
            let allowed = "a URL without a password, such as https://huggingface.co";
            self.wrong_secret("HF_ENDPOINT (--hub-endpoint)", allowed);
        }
        url
    }

    fn token(&mut self, cli: &Cli) -> Option<Token> {
        let token = cli.hub_token.clone().filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.is_sendable()) {
            self.wrong_secret("HF_TOKEN (--hub-token)", "printable ASCII without spaces");
        }
        token
    }
}
