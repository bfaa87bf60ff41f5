//! The calls that thruway makes, each with its path in the API's description.

use std::time::Duration;

use rest::{Secret, Trust};
use serde_json::{Map, Value};
use ureq::Agent;

use crate::Error;

/// An answer longer than this is none of these: 1 MiB.
const LIMIT: u64 = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(20);
const OPTIONS: &str = "/System/Configuration/encoding";

/// One server, spoken to with one API key.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    url: String,
    token: Secret,
}

/// What a server tells anybody: /System/Info/Public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// The name that its owner gave it.
    pub name: String,
    /// "10.10.3".
    pub version: String,
}

impl Client {
    /// Nothing is spoken yet. `trust` is for https.
    ///
    /// # Errors
    /// `url` is no address, or the token cannot be one.
    pub fn new(url: &str, token: Secret, trust: &Trust) -> Result<Self, Error> {
        let url = Self::address(url)?;
        if !token.show().chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) || token.show().is_empty() {
            return Err(Error::Setting(
                "the token is no API key of Jellyfin's: letters and digits in one line (Dashboard, API Keys)".into(),
            ));
        }
        let agent = match url.starts_with("https://") {
            true => rest::https(trust, TIMEOUT).map_err(|error| Error::Setting(error.0))?,
            false => rest::http(TIMEOUT),
        };
        Ok(Client { agent, url, token })
    }

    /// An address in full: http or https, the host, the port, and the base path where the server has one.
    pub fn address(url: &str) -> Result<String, Error> {
        let bad = || {
            Error::Setting(format!("{url} is no address of a Jellyfin server: say http://HOST:8096 or https://HOST"))
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let rest = rest.trim_end_matches('/');
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]_".contains(c);
        let fits = matches!(scheme, "http" | "https")
            && !host.is_empty()
            && host.chars().all(plain)
            && path.chars().all(|c| c.is_ascii_alphanumeric() || "-_/.~".contains(c))
            && !path.split('/').any(|part| part == "..");
        if !fits {
            // what was typed may hold a password (user:password@host): it is not repeated then
            return Err(if url.contains('@') {
                Error::Setting("the address holds an @: a login goes into --token-file, never into the URL".into())
            } else {
                bad()
            });
        }
        Ok(format!("{scheme}://{rest}"))
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// True where the token goes over a network in clear text.
    pub fn in_the_clear(&self) -> bool {
        let host = self.url.strip_prefix("http://").unwrap_or("localhost");
        let name = host.split('/').next().unwrap_or_default();
        let name = name.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(name, |(name, _)| name);
        !(name == "localhost" || name.starts_with("127.") || name == "[::1]")
    }

    /// GET /System/Info/Public, which needs no token and gets none.
    pub fn public(&self) -> Result<Public, Error> {
        let what = "/System/Info/Public";
        let value = self.call(what, None, false)?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        match text("Version") {
            Some(version) => Ok(Public { name: text("ServerName").unwrap_or_default(), version }),
            None => Err(Error::Answer { what: what.into(), says: "no Version: is this Jellyfin?".into() }),
        }
    }

    /// GET /System/Configuration/encoding: the whole object, in the server's order.
    pub fn options(&self) -> Result<Map<String, Value>, Error> {
        match self.call(OPTIONS, None, true)? {
            Value::Object(options) if options.contains_key("HardwareAccelerationType") => Ok(options),
            _ => {
                Err(Error::Answer { what: format!("GET {OPTIONS}"), says: "no HardwareAccelerationType in it".into() })
            }
        }
    }

    /// POST /System/Configuration/encoding: replaces the whole object. An administrator's, 204.
    pub(crate) fn replace(&self, options: &Map<String, Value>) -> Result<(), Error> {
        self.call(OPTIONS, Some(options), true).map(drop)
    }

    fn call(&self, path: &str, body: Option<&Map<String, Value>>, login: bool) -> Result<Value, Error> {
        let url = format!("{}{path}", self.url);
        let login = login.then(|| {
            let (client, version) =
                ("Client=\"thruway\", Device=\"thruway\", DeviceId=\"thruway\"", env!("CARGO_PKG_VERSION"));
            format!("MediaBrowser Token=\"{}\", {client}, Version=\"{version}\"", self.token.show())
        });
        let sent = match body {
            None => {
                let request = self.agent.get(&url).header("Accept", "application/json");
                login.iter().fold(request, |request, login| request.header("Authorization", login)).call()
            }
            Some(body) => {
                let request = self.agent.post(&url).header("Content-Type", "application/json");
                let request = login.iter().fold(request, |request, login| request.header("Authorization", login));
                request.send(Value::Object(body.clone()).to_string())
            }
        };
        let what = format!("{} {path}", if body.is_some() { "POST" } else { "GET" });
        let fault = |error: ureq::Error| Error::Connect { url: self.url.clone(), says: spoken(&error) };
        let mut answer = sent.map_err(fault)?;
        let status = answer.status().as_u16();
        let bytes = answer.body_mut().with_config().limit(LIMIT).read_to_vec().map_err(fault)?;
        match status {
            200 => serde_json::from_slice(&bytes).map_err(|_| Error::Answer {
                what,
                says: "no JSON: is this Jellyfin, and is its base path in the URL?".into(),
            }),
            204 => Ok(Value::Null),
            _ => Err(Error::Refused { what, status, says: refusal(status, body.is_some()) }),
        }
    }
}

/// What a status of Jellyfin's means here. Its body may be a page of anybody's, and is not repeated.
fn refusal(status: u16, change: bool) -> String {
    let says = match status {
        300..=399 => "it sends elsewhere, and a token follows nobody: say the address that it names itself",
        400 => "it does not take these settings (a path that is not there, or a value that it does not know)",
        401 => "the API key is not known to it: make one in its Dashboard under API Keys",
        403 => "the API key or user may not change settings: it needs an administrator's",
        404 if change => "a directory that the settings name is not there (TranscodingTempPath)",
        404 => "there is no such call: is this Jellyfin 10.8 or newer, and is its base path in the URL?",
        500..=502 => "it failed; its own log says why",
        503 => "it is starting",
        _ => "nothing more",
    };
    says.to_owned()
}

/// What went wrong below HTTP, with the way out where there is one.
fn spoken(error: &ureq::Error) -> String {
    let text = error.to_string();
    if text.contains("UnknownIssuer") || text.contains("NotValidForName") {
        return format!(
            "its certificate is not trusted ({text}); give its SHA-256 fingerprint (--fingerprint) or its CA (--ca)"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_held_to_their_form_and_a_login_in_one_is_not_repeated() {
        let of = |url: &str| Client::address(url).map_err(|error| error.to_string());
        assert_eq!(of("http://192.0.2.7:8096/"), Ok("http://192.0.2.7:8096".into()));
        assert_eq!(of("https://media.example/jellyfin"), Ok("https://media.example/jellyfin".into()));
        for bad in ["", "192.0.2.7:8096", "ftp://a", "http://", "http://a b", "http://a/../b", "http://a/\r\nX: y"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let error = of("http://admin:hunter2@host:8096").expect_err("no login in it");
        assert!(!error.contains("hunter2") && error.contains("--token-file"), "{error}");
    }

    #[test]
    fn a_token_that_could_end_the_header_is_refused_and_not_repeated() {
        for token in ["", "a\r\nX: y", "a\"b", "a b"] {
            let error = Client::new("http://127.0.0.1:8096", Secret::new(token), &Trust::Roots(Vec::new()));
            let error = error.expect_err("no token").to_string();
            assert!(!error.contains("X: y"), "{error}");
        }
    }

    #[test]
    fn clear_text_is_only_quiet_on_this_machine() {
        let clear = |url: &str| {
            Client::new(url, Secret::new("abc"), &Trust::Roots(Vec::new())).expect("a client").in_the_clear()
        };
        assert!(!clear("http://127.0.0.1:8096") && !clear("http://localhost/jf") && !clear("http://[::1]:8096"));
        assert!(clear("http://192.0.2.7:8096") && clear("http://localhost.example:8096"));
    }
}
