//! The calls that thruway makes, each with its path in the API's description.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::{Error, Login, Secret, Trust};

/// An answer longer than this is none of Proxmox VE's: 8 MiB.
const LIMIT: u64 = 8 << 20;
/// Proxmox VE answers a call within 30 s, or gives a task.
const TIMEOUT: Duration = Duration::from_secs(45);

/// One node's API, spoken to by one user.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    /// "https://192.0.2.10:8006".
    url: String,
    login: Login,
    /// A ticket and its CSRF token, once got.
    ticket: Mutex<Option<(Secret, Secret)>>,
}

/// A setting that waits for a stop and start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub key: String,
    /// What the running VM has.
    pub now: Option<String>,
    /// What it gets; none: the key goes.
    pub then: Option<String>,
}

impl Client {
    /// `url`: https, a host, and the port where it is not 8006. Nothing is spoken yet.
    pub fn new(url: &str, login: Login, trust: &Trust) -> Result<Self, Error> {
        let url = Self::address(url)?;
        let agent = rest::https(trust, TIMEOUT)?;
        Ok(Client { agent, url, login, ticket: Mutex::new(None) })
    }

    /// An address in full: https, the host, and the port, which is 8006 where it is not said.
    pub fn address(url: &str) -> Result<String, Error> {
        let bad = || Error::Setting(format!("{url} is no address of Proxmox VE's API: say https://HOST:8006"));
        let host = url.strip_prefix("https://").ok_or_else(bad)?.trim_end_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(bad());
        }
        let port = host.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        Ok(if port { format!("https://{host}") } else { format!("https://{host}:8006") })
    }

    pub fn user(&self) -> &str {
        self.login.user()
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// GET /cluster/resources?type=vm: the node on which this VM is.
    pub fn node_of(&self, vmid: u32) -> Result<String, Error> {
        let all = self.call("GET", "/cluster/resources?type=vm", &[])?;
        let found = all.as_array().into_iter().flatten().find(|one| number(one.get("vmid")) == Some(u64::from(vmid)));
        let node = found.and_then(|one| one.get("node")).and_then(Value::as_str).map(str::to_owned);
        let says = || format!("there is no VM {vmid} in this cluster, or {} may not see it (VM.Audit)", self.user());
        node.ok_or_else(|| Error::NotAllowed {
            says: says(),
            instead: "look at /cluster/resources in the web interface".into(),
        })
    }

    /// GET /access/permissions: path → privilege → 1 where it holds below, too.
    pub fn permissions(&self) -> Result<Value, Error> {
        self.call("GET", "/access/permissions", &[])
    }

    /// GET /nodes/{node}/qemu/{vmid}/config: as it will be at the next start, with its digest.
    pub fn config(&self, node: &str, vmid: u32) -> Result<Value, Error> {
        self.call("GET", &format!("/nodes/{}/qemu/{vmid}/config", word(node)?), &[])
    }

    /// GET /nodes/{node}/qemu/{vmid}/pending, as it is answered: `key`, `value` (now), `pending` or `delete` (then).
    pub(crate) fn pending_of(&self, node: &str, vmid: u32) -> Result<Value, Error> {
        self.call("GET", &format!("/nodes/{}/qemu/{vmid}/pending", word(node)?), &[])
    }

    /// GET /version: `version` ("8.2.4"), `release`.
    pub(crate) fn version(&self) -> Result<Value, Error> {
        self.call("GET", "/version", &[])
    }

    /// GET /cluster/resources: nodes, VMs and storages that this user may see, each with its `type`.
    pub(crate) fn resources(&self) -> Result<Value, Error> {
        self.call("GET", "/cluster/resources", &[])
    }

    /// GET /cluster/resources?type=vm: (node, number) of every VM that this user may see.
    pub(crate) fn all_vms(&self) -> Result<Vec<(String, u32)>, Error> {
        let all = self.call("GET", "/cluster/resources?type=vm", &[])?;
        let one = |item: &Value| {
            let vm = item.get("type").and_then(Value::as_str) == Some("qemu");
            let node = item.get("node").and_then(Value::as_str).filter(|_| vm)?;
            Some((node.to_owned(), number(item.get("vmid")).and_then(|vmid| u32::try_from(vmid).ok())?))
        };
        Ok(all.as_array().into_iter().flatten().filter_map(one).collect())
    }

    /// GET /nodes/{node}/hardware/pci, bridges and memory controllers, too: they share IOMMU groups.
    pub(crate) fn pci(&self, node: &str) -> Result<Value, Error> {
        self.call("GET", &format!("/nodes/{}/hardware/pci?pci-class-blacklist=", word(node)?), &[])
    }

    /// POST /cluster/mapping/pci: a new mapping with these entries.
    pub(crate) fn create_mapping(&self, id: &str, map: &[String]) -> Result<(), Error> {
        let mut form = vec![("id", mapping_id(id)?.to_owned())];
        form.extend(map.iter().map(|map| ("map", map.clone())));
        self.call("POST", "/cluster/mapping/pci", &form).map(drop)
    }

    /// GET /cluster/mapping/pci/{id}: its entries as written; none where there is no such mapping.
    pub(crate) fn mapping(&self, id: &str) -> Result<Option<Vec<String>>, Error> {
        match self.call("GET", &format!("/cluster/mapping/pci/{}", mapping_id(id)?), &[]) {
            Ok(one) => {
                let maps = one.get("map").and_then(Value::as_array).into_iter().flatten();
                Ok(Some(maps.map(plain).collect()))
            }
            // PVE::Mapping::PCI has no status of its own for it
            Err(Error::Refused { status: 404 | 500, says, .. })
                if says.contains("not found") || says.contains("not exist") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// DELETE /cluster/mapping/pci/{id}. The call has no digest: look at it first.
    pub(crate) fn delete_mapping(&self, id: &str) -> Result<(), Error> {
        self.call("DELETE", &format!("/cluster/mapping/pci/{}", mapping_id(id)?), &[]).map(drop)
    }

    /// GET /nodes/{node}/qemu/{vmid}/pending: what waits for a stop and start.
    pub fn pending(&self, node: &str, vmid: u32) -> Result<Vec<Pending>, Error> {
        let all = self.call("GET", &format!("/nodes/{}/qemu/{vmid}/pending", word(node)?), &[])?;
        let one = |item: &Value| {
            let text = |key: &str| item.get(key).map(plain);
            let (then, deleted) = (text("pending"), number(item.get("delete")).is_some_and(|level| level > 0));
            (then.is_some() || deleted).then(|| Pending {
                key: text("key").unwrap_or_default(),
                now: text("value"),
                then,
            })
        };
        Ok(all.as_array().into_iter().flatten().filter_map(one).collect())
    }

    /// POST /nodes/{node}/qemu/{vmid}/config: changes it, where it still has this digest. A task's id, where it is not
    /// done within ten seconds.
    pub fn set(
        &self,
        node: &str,
        vmid: u32,
        set: &[(String, String)],
        delete: &[String],
        digest: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let mut form: Vec<(&str, String)> = set.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        if !delete.is_empty() {
            form.push(("delete", delete.join(",")));
        }
        form.extend(digest.filter(|digest| !digest.is_empty()).map(|digest| ("digest", digest.to_owned())));
        form.push(("background_delay", "10".into()));
        let answer = self.call("POST", &format!("/nodes/{}/qemu/{vmid}/config", word(node)?), &form)?;
        Ok(answer.as_str().map(str::to_owned))
    }

    /// GET /cluster/mapping/pci: the mappings that this user sees, as (id, the maps as written).
    pub fn mappings(&self) -> Result<Vec<(String, Vec<String>)>, Error> {
        let all = self.call("GET", "/cluster/mapping/pci", &[])?;
        let one = |item: &Value| {
            let maps = item.get("map").and_then(Value::as_array).into_iter().flatten();
            (item.get("id").map(plain).unwrap_or_default(), maps.map(plain).collect())
        };
        Ok(all.as_array().into_iter().flatten().map(one).collect())
    }

    /// POST /nodes/{node}/qemu/{vmid}/status/start: the task's id.
    pub fn start(&self, node: &str, vmid: u32) -> Result<String, Error> {
        let path = format!("/nodes/{}/qemu/{vmid}/status/start", word(node)?);
        let answer = self.call("POST", &path, &[])?;
        answer.as_str().map(str::to_owned).ok_or(Error::Answer { what: path, says: "no task's id".into() })
    }

    /// One call; what it gives in `data`.
    pub(crate) fn call(&self, method: &str, path: &str, form: &[(&str, String)]) -> Result<Value, Error> {
        let ticket = match &self.login {
            Login::Token { .. } => None,
            Login::Password { user, password } => Some(self.ticket(user, password)?),
        };
        self.send(method, path, form, ticket)
    }

    /// POST /access/ticket, once.
    fn ticket(&self, user: &str, password: &Secret) -> Result<(Secret, Secret), Error> {
        let mut kept = self.ticket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(ticket) = kept.as_ref() {
            return Ok(ticket.clone());
        }
        let form = [("username", user.to_owned()), ("password", password.show().to_owned())];
        let answer = self.send("POST", "/access/ticket", &form, None)?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).map(Secret::new);
        let both = text("ticket").zip(text("CSRFPreventionToken"));
        let says = "no ticket: a second factor is asked for, which thruway cannot give; use an API token";
        let both = both.ok_or(Error::Answer { what: "/access/ticket".into(), says: says.into() })?;
        *kept = Some(both.clone());
        Ok(both)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        form: &[(&str, String)],
        ticket: Option<(Secret, Secret)>,
    ) -> Result<Value, Error> {
        let url = format!("{}/api2/json{path}", self.url);
        let mut headers: Vec<(&str, String)> = Vec::new();
        if let Login::Token { id, secret } = &self.login {
            headers.push(("Authorization", format!("PVEAPIToken={id}={}", secret.show())));
        }
        if let Some((ticket, csrf)) = &ticket {
            headers.push(("Cookie", format!("PVEAuthCookie={}", ticket.show())));
            headers.push(("CSRFPreventionToken", csrf.show().to_owned()));
        }
        let form = form.iter().map(|(key, value)| (*key, value.as_str()));
        let sent = if matches!(method, "GET" | "DELETE") {
            let request = if method == "GET" { self.agent.get(&url) } else { self.agent.delete(&url) };
            headers.into_iter().fold(request, |request, (name, value)| request.header(name, value)).call()
        } else {
            let request = if method == "PUT" { self.agent.put(&url) } else { self.agent.post(&url) };
            headers.into_iter().fold(request, |request, (name, value)| request.header(name, value)).send_form(form)
        };
        let what = format!("{method} {}", path.split('?').next().unwrap_or(path));
        let fault = |error: ureq::Error| Error::Connect { url: self.url.clone(), says: spoken(&error) };
        let mut answer = sent.map_err(fault)?;
        let status = answer.status().as_u16();
        let bytes = answer.body_mut().with_config().limit(LIMIT).read_to_vec().map_err(fault)?;
        let body: Option<Value> = serde_json::from_slice(&bytes).ok();
        if !(200..300).contains(&status) {
            return Err(Error::Refused { what, status, says: refusal(body.as_ref(), status) });
        }
        let data = body.as_ref().and_then(|body| body.get("data")).cloned();
        data.ok_or_else(|| Error::Answer { what, says: "no JSON with data in it: is this Proxmox VE?".into() })
    }
}

/// Proxmox VE's words of an answer that is none: its message, and what is wrong with which parameter.
fn refusal(body: Option<&Value>, status: u16) -> String {
    let message = body.and_then(|body| body.get("message")).map(plain).unwrap_or_default();
    let mut says = vec![message.trim().to_owned()];
    let errors = body.and_then(|body| body.get("errors")).and_then(Value::as_object);
    says.extend(errors.into_iter().flatten().map(|(key, why)| format!("{key}: {}", plain(why).trim())));
    says.retain(|text| !text.is_empty());
    match (says.is_empty(), status) {
        (false, _) => says.join("; "),
        (true, 401) => "not logged in: the token or password is wrong, or has run out".into(),
        (true, 403) => "not allowed".into(),
        (true, 595..=599) => "the node behind this one does not answer".into(),
        (true, _) => "nothing more".into(),
    }
}

/// What went wrong below HTTP, with the way out where there is one.
fn spoken(error: &ureq::Error) -> String {
    let text = error.to_string();
    if text.contains("UnknownIssuer") || text.contains("NotValidForName") {
        let way = "give its fingerprint (--pve-fingerprint; pvenode cert info shows it) or the cluster's CA (--pve-ca, /etc/pve/pve-root-ca.pem)";
        return format!("its certificate is not trusted ({text}); {way}");
    }
    text
}

/// A mapping's name goes into a path. Source: the API's description, pve-configid.
fn mapping_id(text: &str) -> Result<&str, Error> {
    let fits = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if fits && text.len() > 1 { Ok(text) } else { Err(Error::Setting(format!("{text:?} is no name of a mapping"))) }
}

/// A node's name goes into a path.
pub(crate) fn word(text: &str) -> Result<&str, Error> {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
    if plain { Ok(text) } else { Err(Error::Setting(format!("{text:?} is no name of a node"))) }
}

/// Numbers and booleans come as such or as text.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(crate) fn number(value: Option<&Value>) -> Option<u64> {
    value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()))
}
