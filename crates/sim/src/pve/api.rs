//! The calls that are answered.

use serde_json::{Value, json};

use super::http::{Answer, Request};
use super::state::{self, State};
use super::{Account, mapping, node, schema};
use crate::physics::{self, PhysicsError};
use crate::tree::Tree;

/// Why a call is refused: status, the API's message, and what is wrong with which parameter.
pub(super) struct No(pub u16, pub String, pub Vec<(String, String)>);

pub(super) type Given = Result<Value, No>;

pub(super) fn no<T>(status: u16, says: impl Into<String>) -> Result<T, No> {
    Err(No(status, says.into(), Vec::new()))
}

impl From<PhysicsError> for No {
    fn from(error: PhysicsError) -> Self {
        No(500, error.to_string(), Vec::new())
    }
}

pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    state.calls.push(format!("{} {}", request.method, request.path));
    match route(state, request) {
        Ok(data) => Answer { status: 200, body: json!({ "data": data }) },
        Err(No(status, says, errors)) => {
            let mut body = json!({ "data": null, "message": format!("{says}\n") });
            if let (false, Some(body)) = (errors.is_empty(), body.as_object_mut()) {
                let errors: serde_json::Map<String, Value> = errors.into_iter().map(|(k, v)| (k, v.into())).collect();
                body.insert("errors".into(), Value::Object(errors));
            }
            Answer { status, body }
        }
    }
}

fn route(state: &mut State, request: &Request) -> Given {
    let parts: Vec<&str> = request.path.split('/').filter(|part| !part.is_empty()).collect();
    if (request.method.as_str(), parts.as_slice()) == ("POST", &["access", "ticket"]) {
        return ticket(state, request);
    }
    let who = login(state, request)?;
    let tree = state.tree()?;
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["version"]) => Ok(json!({ "version": "8.2.4", "release": "8.2", "repoid": "simulated" })),
        ("GET", ["access", "permissions"]) => Ok(permissions(&who)),
        ("GET", ["cluster", "resources"]) => Ok(node::resources(state, &tree, &who, &request.params)),
        ("GET", ["nodes"]) => Ok(json!([{ "node": "pve", "status": "online", "type": "node", "id": "node/pve" }])),
        ("GET", ["nodes", "pve", "hardware", "pci"]) => node::pci(&tree, &who, &request.params),
        ("GET", ["cluster", "mapping", "pci"]) => Ok(mapping::list(&tree, &who)),
        ("POST", ["cluster", "mapping", "pci"]) => mapping::create(&tree, &who, &request.params),
        (method, ["cluster", "mapping", "pci", id]) => mapping::one(&tree, &who, method, id),
        ("GET", ["nodes", "pve", "tasks", upid, "status"]) => task(state, upid, true),
        ("GET", ["nodes", "pve", "tasks", upid, "log"]) => task(state, upid, false),
        (method, ["nodes", "pve", "qemu", vmid, rest @ ..]) => {
            let Ok(vmid) = vmid.parse::<u32>() else { return no(400, "Parameter verification failed.") };
            vm(state, &tree, &who, method, vmid, rest, &request.params)
        }
        (_, ["nodes", node, ..]) if *node != "pve" => no(595, format!("no such cluster node '{node}'")),
        (method, _) => no(501, format!("Method '{method} {}' not implemented", request.path)),
    }
}

fn vm(
    state: &mut State,
    tree: &Tree,
    who: &Account,
    method: &str,
    vmid: u32,
    rest: &[&str],
    params: &[(String, String)],
) -> Given {
    let place = format!("/vms/{vmid}");
    let need = |privilege: &str| match may(who, &place, privilege) {
        true => Ok(()),
        false => no(403, format!("Permission check failed ({place}, {privilege})")),
    };
    let Some(conf) = state::conf(tree, vmid) else {
        return no(500, format!("Configuration file 'nodes/pve/qemu-server/{vmid}.conf' does not exist"));
    };
    match (method, rest) {
        ("GET", ["config"]) => {
            need("VM.Audit")?;
            let mut all: serde_json::Map<String, Value> = conf.main.into_iter().map(|(k, v)| (k, v.into())).collect();
            for (key, value) in conf.pending {
                match value {
                    Some(value) => all.insert(key, value.into()),
                    None => all.shift_remove(&key),
                };
            }
            all.insert("digest".into(), conf.digest.into());
            Ok(Value::Object(all))
        }
        ("GET", ["pending"]) => {
            need("VM.Audit")?;
            let waits = |key: &str| conf.pending.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
            let mut all: Vec<Value> = Vec::new();
            for (key, value) in &conf.main {
                let mut item = json!({ "key": key, "value": value });
                match (waits(key), item.as_object_mut()) {
                    (Some(Some(new)), Some(item)) => drop(item.insert("pending".into(), new.into())),
                    (Some(None), Some(item)) => drop(item.insert("delete".into(), 1.into())),
                    _ => {}
                }
                all.push(item);
            }
            let new =
                conf.pending.iter().filter(|(key, value)| value.is_some() && !conf.main.iter().any(|(k, _)| k == key));
            all.extend(new.map(|(key, value)| json!({ "key": key, "pending": value })));
            Ok(Value::Array(all))
        }
        ("GET", ["status", "current"]) => {
            need("VM.Audit")?;
            let runs = tree.has(&format!("/run/qemu-server/{vmid}.pid"));
            Ok(json!({ "vmid": vmid, "status": if runs { "running" } else { "stopped" } }))
        }
        ("POST" | "PUT", ["config"]) => change(state, tree, who, vmid, &conf, method == "POST", params),
        ("POST", ["status", "start"]) => {
            need("VM.PowerMgmt")?;
            let root = state.root.clone();
            let end = physics::start_vm(&root, vmid).map(drop).map_err(|error| error.to_string());
            Ok(state.task(tree, "qmstart", vmid, &who.name, end)?.into())
        }
        _ => no(501, format!("Method '{method} /nodes/pve/qemu/{vmid}/{}' not implemented", rest.join("/"))),
    }
}

/// Keys that a running VM takes over at once; every other waits for a stop and start.
const HOT: &[&str] = &["name", "onboot", "description", "balloon"];

fn change(
    state: &mut State,
    tree: &Tree,
    who: &Account,
    vmid: u32,
    conf: &state::Conf,
    post: bool,
    params: &[(String, String)],
) -> Given {
    let (mut set, mut delete, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let mut wrong = |key: &str, says: String| errors.push((key.to_owned(), says));
    for (key, value) in params {
        match key.as_str() {
            "delete" => delete.extend(value.split([',', ' ', ';']).filter(|key| !key.is_empty()).map(str::to_owned)),
            "digest" if value.len() > 40 => wrong(key, "value may only be 40 characters long".into()),
            "digest" | "force" => {}
            "background_delay" if post => match value.parse::<u32>() {
                Ok(1..=30) => {}
                _ => wrong(key, "value must be between 1 and 30".into()),
            },
            "skiplock" if who.name == "root@pam" => {}
            "skiplock" => wrong(key, "Only root may use this option.".into()),
            name => match schema::find(name) {
                Some(known) => match known.form.wrong(value) {
                    Some(says) => wrong(key, says),
                    None => set.push((key.clone(), value.clone())),
                },
                None => wrong(
                    key,
                    "property is not defined in schema and the schema does not allow additional properties".into(),
                ),
            },
        }
    }
    if !errors.is_empty() {
        return Err(No(400, "Parameter verification failed.".into(), errors));
    }
    allowed(who, vmid, &set, &delete)?;
    if let Some((_, lock)) = conf.main.iter().find(|(key, _)| key == "lock") {
        return no(500, format!("VM is locked ({lock})"));
    }
    if params.iter().any(|(key, value)| key == "digest" && *value != conf.digest) {
        return no(500, "detected modified configuration - file changed by other user? Try again.");
    }
    for (key, value) in set.iter().filter(|(key, _)| key.starts_with("hostpci")) {
        if let Some(id) = value.split(',').find_map(|part| part.strip_prefix("mapping="))
            && !mapping::all(tree).iter().any(|(known, _)| known == id)
        {
            return no(500, format!("{key}: PCI device mapping not found for '{id}'"));
        }
    }
    if tree.has(&format!("/run/qemu-server/{vmid}.pid")) {
        let cold = |key: &str| !HOT.contains(&key);
        let mut pending = conf.pending.clone();
        pending.retain(|(key, _)| !set.iter().any(|(k, _)| k == key) && !delete.contains(key));
        let changed =
            set.iter().filter(|(key, value)| cold(key) && !conf.main.iter().any(|(k, v)| k == key && v == value));
        pending.extend(changed.map(|(key, value)| (key.clone(), Some(value.clone()))));
        let gone = delete.iter().filter(|key| cold(key) && conf.main.iter().any(|(k, _)| k == *key));
        pending.extend(gone.map(|key| (key.clone(), None)));
        set.retain(|(key, _)| !cold(key));
        delete.retain(|key| !cold(key));
        state::set_pending(tree, vmid, conf, &pending)?;
    }
    if !set.is_empty() || !delete.is_empty() {
        crate::hands::qm_set(tree, vmid, &set, &delete).or_else(|error| no(500, error.to_string()))?;
    }
    if post && state.slow {
        return Ok(state.task(tree, "qmconfig", vmid, &who.name, Ok(()))?.into());
    }
    Ok(Value::Null)
}

fn allowed(who: &Account, vmid: u32, set: &[(String, String)], delete: &[String]) -> Result<(), No> {
    if who.name == "root@pam" {
        return Ok(());
    }
    let all = set.iter().map(|(key, value)| (key, Some(value))).chain(delete.iter().map(|key| (key, None)));
    for (key, value) in all {
        let Some(privilege) = schema::find(key).and_then(|known| known.needs) else {
            return no(500, format!("only root can set '{key}' config"));
        };
        if let (true, Some(value)) = (key.starts_with("hostpci"), value) {
            if value.contains("romfile=") {
                return no(500, "only root@pam can set 'romfile' option");
            }
            let Some(id) = value.split(',').find_map(|part| part.strip_prefix("mapping=")) else {
                return no(500, format!("only root can set '{key}' config for non-mapped devices"));
            };
            let place = format!("/mapping/pci/{id}");
            if !may(who, &place, "Mapping.Use") {
                return no(403, format!("Permission check failed ({place}, Mapping.Use)"));
            }
        }
        let place = format!("/vms/{vmid}");
        if !may(who, &place, privilege) {
            return no(403, format!("Permission check failed ({place}, {privilege})"));
        }
    }
    Ok(())
}

/// root@pam may all; others what their nearest listed path says.
pub(super) fn may(who: &Account, path: &str, privilege: &str) -> bool {
    if who.name == "root@pam" {
        return true;
    }
    let mut at = path;
    loop {
        if let Some(listed) = who.may.get(if at.is_empty() { "/" } else { at }) {
            return listed.iter().any(|one| one == privilege);
        }
        if at.is_empty() {
            return false;
        }
        at = at.rsplit_once('/').map_or("", |(above, _)| above);
    }
}

fn permissions(who: &Account) -> Value {
    let listed =
        |privileges: &Vec<String>| Value::Object(privileges.iter().map(|one| (one.clone(), Value::from(1))).collect());
    Value::Object(who.may.iter().map(|(path, privileges)| (path.clone(), listed(privileges))).collect())
}

/// A token by its header, a user by ticket; a change by ticket needs its CSRF token, too.
fn login(state: &State, request: &Request) -> Result<Account, No> {
    let token = request.headers.get("authorization").and_then(|text| text.strip_prefix("PVEAPIToken="));
    let ticket = request.headers.get("cookie").and_then(|text| text.strip_prefix("PVEAuthCookie=SIM:"));
    let found = match (token, ticket) {
        (Some(token), _) => state.accounts.iter().find(|one| token.split_once('=') == Some((&one.name, &one.secret))),
        (None, Some(user)) => {
            let csrf = request.headers.get("csrfpreventiontoken").is_some_and(|text| *text == format!("csrf-{user}"));
            if request.method != "GET" && !csrf {
                return no(401, "permission denied - invalid csrf token");
            }
            state.accounts.iter().find(|one| one.name == user)
        }
        (None, None) => return no(401, "No ticket"),
    };
    found.cloned().map_or_else(|| no(401, "authentication failure"), Ok)
}

fn ticket(state: &State, request: &Request) -> Given {
    let param = |name: &str| request.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let (user, password) = (param("username").unwrap_or_default(), param("password").unwrap_or_default());
    // a token's secret is no password
    let known = state.accounts.iter().any(|one| one.name == user && one.secret == password && !user.contains('!'));
    match known {
        true => Ok(
            json!({ "username": user, "ticket": format!("SIM:{user}"), "CSRFPreventionToken": format!("csrf-{user}") }),
        ),
        false => no(401, "authentication failure"),
    }
}

fn task(state: &mut State, upid: &str, status: bool) -> Given {
    let Some(task) = state.tasks.iter_mut().find(|task| task.upid == upid) else {
        return no(500, format!("unable to parse worker upid '{upid}'"));
    };
    if !status {
        return Ok(task.log.iter().enumerate().map(|(at, line)| json!({ "n": at + 1, "t": line })).collect());
    }
    if task.runs > 0 {
        task.runs -= 1;
        return Ok(json!({ "upid": upid, "status": "running" }));
    }
    Ok(json!({ "upid": upid, "status": "stopped", "exitstatus": task.status }))
}
