//! What the API will refuse, said before anything is tried.
//!
//! Source: PVE::API2::Qemu, check_vm_modify_config_perm, and PVE::RPCEnvironment.

use serde_json::Value;

use crate::Error;

/// The privilege on /vms/VMID that a key needs.
fn privilege(key: &str) -> &'static str {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem {
        "cores" | "cpu" | "cpulimit" | "cpuunits" | "numa" | "sockets" | "vcpus" => "VM.Config.CPU",
        "memory" | "balloon" | "shares" => "VM.Config.Memory",
        "efidisk" | "scsi" | "virtio" | "sata" | "ide" | "tpmstate" | "unused" | "boot" | "bootdisk" => {
            "VM.Config.Disk"
        }
        "net" | "ipconfig" => "VM.Config.Network",
        "agent" | "autostart" | "bios" | "description" | "name" | "onboot" | "ostype" | "startup" | "tags"
        | "template" | "protection" | "reboot" => "VM.Config.Options",
        _ => "VM.Config.HWType",
    }
}

/// Whether `user` may set and delete these keys; `permissions` as GET /access/permissions gives it. The error names the
/// key, what is missing, and the way out.
pub fn preflight(
    user: &str,
    permissions: &Value,
    vmid: u32,
    set: &[(String, String)],
    delete: &[String],
) -> Result<(), Error> {
    // Not a matter of privileges: the API compares the name, and a token's is another, even root's.
    if user == "root@pam" {
        return Ok(());
    }
    let vm = format!("/vms/{vmid}");
    let values = set.iter().map(|(key, value)| (key.as_str(), Some(value.as_str())));
    for (key, value) in values.chain(delete.iter().map(|key| (key.as_str(), None))) {
        let option = |name: &str| {
            value.and_then(|value| value.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')))
        };
        if key == "args" {
            let instead = format!("run it on the node as root: qm set {vmid} --args …");
            return Err(root_only(user, "args", instead));
        }
        if key.starts_with("hostpci") {
            if option("romfile").is_some() {
                return Err(root_only(
                    user,
                    "romfile",
                    format!("leave romfile away, or run qm set {vmid} on the node as root"),
                ));
            }
            match (value, option("mapping")) {
                (Some(_), Some(mapping)) => {
                    need(permissions, &format!("/mapping/pci/{mapping}"), "Mapping.Use", key, user)?
                }
                (Some(value), None) => {
                    let address = value.split(',').next().unwrap_or_default();
                    let address = address.strip_prefix("host=").unwrap_or(address);
                    let instead = format!(
                        "make a mapping for {address} (Datacenter, Resource Mappings; needs Mapping.Modify on /mapping/pci), \
                         grant Mapping.Use on it, and set {key} to mapping=ID; or run qm set {vmid} on the node as root"
                    );
                    return Err(root_only(user, &format!("{key} to a raw address"), instead));
                }
                (None, _) => {}
            }
        }
        need(permissions, &vm, privilege(key), key, user)?;
        // STORE:SIZE asks for a new volume
        let volume = value.and_then(|value| value.split(',').next()?.split_once(':'));
        if let Some((store, size)) = volume.filter(|_| privilege(key) == "VM.Config.Disk")
            && !size.is_empty()
            && size.bytes().all(|byte| byte.is_ascii_digit())
        {
            need(permissions, &format!("/storage/{store}"), "Datastore.AllocateSpace", key, user)?;
        }
    }
    Ok(())
}

fn root_only(user: &str, what: &str, instead: String) -> Error {
    let token = if user.contains('!') { "; no API token may, not even one of root@pam" } else { "" };
    Error::NotAllowed { says: format!("only root@pam itself may set {what}, and this is {user}{token}"), instead }
}

fn need(permissions: &Value, path: &str, privilege: &str, key: &str, user: &str) -> Result<(), Error> {
    if holds(permissions, path, privilege) {
        return Ok(());
    }
    let flag = if user.contains('!') { "--tokens" } else { "--users" };
    Err(Error::NotAllowed {
        says: format!("{user} lacks {privilege} on {path}, which setting {key} needs"),
        instead: format!("pveum acl modify {path} {flag} '{user}' --roles ROLE, with a role that has {privilege}"),
    })
}

/// The nearest path that is listed decides; what stands above holds below only where it propagates (1).
pub(crate) fn holds(permissions: &Value, path: &str, privilege: &str) -> bool {
    if let Some(exact) = permissions.get(path) {
        return exact.get(privilege).is_some();
    }
    let mut above = path;
    while let Some((parent, _)) = above.rsplit_once('/') {
        let name = if parent.is_empty() { "/" } else { parent };
        if let Some(listed) = permissions.get(name) {
            return listed.get(privilege).is_some_and(|propagates| propagates.as_u64() == Some(1) || propagates == "1");
        }
        above = parent;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn says(user: &str, permissions: &Value, key: &str, value: &str) -> String {
        match preflight(user, permissions, 100, &[(key.to_owned(), value.to_owned())], &[]) {
            Ok(()) => "may".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn raw_addresses_are_for_root_itself_alone() {
        let all = json!({"/": {"VM.Config.HWType": 1, "Mapping.Use": 1}});
        assert_eq!(says("root@pam", &json!({}), "hostpci0", "0000:26:00,pcie=1"), "may");
        let token = says("root@pam!t", &all, "hostpci0", "0000:26:00,pcie=1");
        assert!(token.contains("only root@pam itself") && token.contains("no API token"), "{token}");
        assert_eq!(says("root@pam!t", &all, "hostpci0", "mapping=gpu0,pcie=1"), "may");
        assert!(says("root@pam!t", &all, "args", "-device x").contains("args"));
        assert!(says("root@pam!t", &all, "hostpci0", "mapping=gpu0,romfile=x.rom").contains("romfile"));
    }

    #[test]
    fn the_privilege_that_is_missing_is_named() {
        let some =
            json!({"/vms/100": {"VM.Config.CPU": 0}, "/vms": {"VM.Config.Memory": 1}, "/": {"VM.Config.HWType": 1}});
        assert_eq!(says("a@pve", &some, "cpu", "host"), "may");
        // What is listed for the VM itself replaces what is above.
        assert!(says("a@pve", &some, "balloon", "0").contains("VM.Config.Memory on /vms/100"));
        let above = json!({"/vms": {"VM.Config.Memory": 1, "VM.Config.CPU": 0}});
        assert_eq!(says("a@pve", &above, "balloon", "0"), "may");
        assert!(says("a@pve", &above, "cpu", "host").contains("VM.Config.CPU"), "what does not propagate is not below");
        assert!(says("a@pve!t", &json!({}), "bios", "ovmf").contains("VM.Config.Options"));
    }
}
