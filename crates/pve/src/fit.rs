//! A plan of the VM floor, made fit for the API and for the user who carries it out: the API's own digest, a mapping in
//! place of a raw address where the user is not exactly root@pam, and what the API would refuse, said now.

use formats::propstr::PropStr;
use model::{Before, Change, Effective, Layer, Op, Plan, Refusal, Undo};
use serde_json::Value;

use crate::{Answers, Error, preflight};

impl Answers {
    /// Fits the plan. Refusals are added where the user may not do what it says; it then changes nothing.
    pub fn fit(&self, plan: &mut Plan) {
        let wanted = std::mem::take(&mut plan.changes);
        for mut change in wanted {
            let Op::Proxmox { vmid, set, delete, digest, .. } = &mut change.op else {
                plan.changes.push(change);
                continue;
            };
            match self.vms.get(vmid).and_then(|one| one.digest()) {
                Some(now) => now.clone_into(digest),
                None => plan.refusals.push(Refusal {
                    because: "vm/pending-not-applied".into(),
                    says: format!("the API gave no digest of VM {vmid}: a change could not be guarded by it"),
                    instead: "look at it in the web interface, and plan again".into(),
                }),
            }
            if self.user != "root@pam" {
                for (key, value) in set.iter_mut() {
                    match self.by_mapping(key, value) {
                        Some(Ok((mapped, made))) => {
                            *value = mapped;
                            plan.changes.extend(made);
                        }
                        Some(Err(refusal)) => plan.refusals.push(refusal),
                        None => {}
                    }
                }
            }
            let refused = plan.refusals.iter().any(|refusal| refusal.because == RAW);
            if let Err(Error::NotAllowed { says, instead }) =
                preflight(&self.user, &self.permissions, *vmid, set, delete)
                && !refused
            {
                let because = change.because.first().cloned().unwrap_or_else(|| RAW.into());
                plan.refusals.push(Refusal { because, says, instead });
            }
            plan.changes.push(change);
        }
        for refusal in plan.refusals.iter_mut().filter(|one| one.because == "vm/no-efidisk" && self.storages.is_empty())
        {
            refusal.instead =
                format!("{} sees no storage: grant Datastore.Audit on /storage; {}", self.user, refusal.instead);
        }
        if !plan.refusals.is_empty() {
            plan.changes.clear();
        }
        plan.notes.extend(self.limits());
    }

    /// A hostpci line by a mapping in place of its raw address, with the step that makes the mapping where there is none.
    /// None: the line is no such line.
    fn by_mapping(&self, key: &str, value: &str) -> Option<Result<(String, Option<Change>), Refusal>> {
        if !key.starts_with("hostpci") {
            return None;
        }
        let props = PropStr::parse(value);
        if props.get("mapping").is_some() {
            return None;
        }
        let path = props.default_or("host")?.split(';').map(full).collect::<Vec<_>>().join(";");
        let options = props.pairs().filter(|(name, _)| !matches!(*name, "" | "host"));
        let options: String = options.map(|(name, value)| format!(",{name}={value}")).collect();
        let line = |id: &str| format!("mapping={id}{options}");
        let mappings = match self.mappings.get() {
            Some(known) => known,
            None => {
                let why = self.mappings.unreadable().map(ToString::to_string).unwrap_or_default();
                return Some(Err(self.refused(key, &path, &format!("and the cluster's mappings cannot be read ({why}): set it on the node as root (qm set), or log in by --pve-user root@pam"))));
            }
        };
        let mut same = mappings.iter().filter(|(_, maps)| maps.iter().any(|map| self.is(map, &path)));
        let usable = same.clone().find(|(id, _)| self.may(&format!("/mapping/pci/{id}"), "Mapping.Use"));
        if let Some((id, _)) = usable.or_else(|| same.next()) {
            return Some(Ok((line(id), None)));
        }
        let Some(entry) = self.entry(&path) else {
            return Some(Err(self.refused(key, &path, "and the node has no such function")));
        };
        let id = free_name(&path, mappings);
        if !self.may("/mapping/pci", "Mapping.Modify") {
            let flag = if self.user.contains('!') { "--tokens" } else { "--users" };
            let instead = format!(
                "use a mapping, which needs Mapping.Modify on /mapping/pci to be made. As root@pam on the node:\n\
                 pvesh create /cluster/mapping/pci --id {id} --map '{entry}'\n\
                 pveum acl modify /mapping/pci/{id} {flag} '{}' --roles PVEMappingUser",
                self.user
            );
            return Some(Err(self.refused(key, &path, &instead)));
        }
        let made = Change {
            layer: Layer::Vm,
            title: format!("mapping {id}: {path} of {}", self.node),
            op: Op::ProxmoxMapping { id: id.clone(), map: vec![entry] },
            expects: Before::Nothing,
            because: vec![RAW.into()],
            risk: Vec::new(),
            effective: Effective::Now,
            undo: Undo::Inverse,
        };
        Some(Ok((line(&id), Some(made))))
    }

    fn refused(&self, key: &str, path: &str, instead: &str) -> Refusal {
        let token = if self.user.contains('!') { " (no API token may, not even one of root@pam)" } else { "" };
        Refusal {
            because: RAW.into(),
            says: format!(
                "only root@pam itself may set {key} to the raw address {path}, and this is {}{token}",
                self.user
            ),
            instead: instead.to_owned(),
        }
    }

    /// True where a mapping's entry is of this node and this path.
    fn is(&self, map: &str, path: &str) -> bool {
        let props = PropStr::parse(map);
        let there = props.get("path").map(|path| path.split(';').map(full).collect::<Vec<_>>().join(";"));
        props.get("node") == Some(self.node.as_str()) && there.as_deref() == Some(path)
    }

    /// A new entry: identity and group are those of the first path's function 0, without 0x. Source: PVE::Mapping::PCI,
    /// assert_valid.
    fn entry(&self, path: &str) -> Option<String> {
        let first = path.split(';').next()?;
        let function = if first.contains('.') { first.to_owned() } else { format!("{first}.0") };
        let text = |one: &Value, key: &str| {
            let number = one.get(key)?.as_str()?;
            let number = number.strip_prefix("0x").unwrap_or(number).to_ascii_lowercase();
            (number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(number)
        };
        let one = self.functions.get()?.iter().find(|one| one.get("id").and_then(Value::as_str) == Some(&function))?;
        let mut entry = format!("node={},path={path},id={}:{}", self.node, text(one, "vendor")?, text(one, "device")?);
        if let (Some(vendor), Some(device)) = (text(one, "subsystem_vendor"), text(one, "subsystem_device")) {
            entry.push_str(&format!(",subsystem-id={vendor}:{device}"));
        }
        let group = one.get("iommugroup").and_then(Value::as_i64).filter(|group| *group >= 0);
        entry.extend(group.map(|group| format!(",iommugroup={group}")));
        Some(entry)
    }
}

/// The check that asks for the line.
const RAW: &str = "vm/card-not-given";

/// With the domain, as mappings have it: "26:00" → "0000:26:00".
fn full(path: &str) -> String {
    let path = path.trim();
    if path.matches(':').count() == 1 { format!("0000:{path}") } else { path.to_owned() }
}

/// "gpu-26-00", and with a number behind it where that is taken.
fn free_name(path: &str, known: &[(String, Vec<String>)]) -> String {
    let first = path.split(';').next().unwrap_or_default();
    let plain = first.strip_prefix("0000:").unwrap_or(first).replace([':', '.'], "-");
    let name = format!("gpu-{plain}");
    let taken = |name: &str| known.iter().any(|(id, _)| id == name);
    let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(name.clone())
}
