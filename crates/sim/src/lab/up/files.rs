//! What SSH and `thruway up` are told, as text: who is who in the lab, by which key, and what is wanted.

use std::path::Path;

/// What the lab's own keys are called below its directory.
pub const KEY: &str = "key";
pub const HOST_KEY: &str = "host_key";
pub const GUEST_KEY: &str = "guest_key";

/// The two names under which SSH knows the lab.
pub const HOST: &str = "lab-host";
pub const GUEST: &str = "lab-guest";
/// The VM's name in libvirt, and its address on the host's own network.
pub const VM: &str = "gpu-guest";
const ADDRESS: &str = "10.0.3.2";
/// A script of the guest: a container of runc that asks NVML what it sees.
pub const CONTAINER: &str = "/lab/container";

/// An ssh_config of its own: only what is said here holds (it is given by `ssh -F`), no key but the lab's is offered, and a
/// host whose key is another than was made for it is refused.
pub fn ssh_config(dir: &Path, port: u16, user: &str) -> String {
    let at = |name: &str| format!("\"{}\"", dir.join(name).display());
    format!(
        "Host {HOST}\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  HostKeyAlias {HOST}\n\
         Host {GUEST}\n  HostName {ADDRESS}\n  User root\n  HostKeyAlias {GUEST}\n  ProxyJump {HOST}\n\
         Host *\n  IdentityFile {key}\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {known}\n  \
         GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes\n  ConnectTimeout 30\n  \
         ServerAliveInterval 15\n  ServerAliveCountMax 4\n  LogLevel ERROR\n",
        key = at(KEY),
        known = at("known_hosts"),
    )
}

/// Both host keys, known before either machine has run. `host` and `guest` are lines of a .pub file.
pub fn known_hosts(host: &str, guest: &str) -> Option<String> {
    let line = |name: &str, key: &str| {
        let mut words = key.split_whitespace();
        Some(format!("{name} {} {}\n", words.next()?, words.next()?))
    };
    Some(line(HOST, host)? + &line(GUEST, guest)?)
}

/// What `thruway up` is to reach.
pub fn way(ssh_config: &Path) -> String {
    let config = toml::Value::String(ssh_config.display().to_string());
    format!(
        "# The lab's way (simulated): a host in QEMU, a VM in it, a container in that.\nname = \"lab\"\n\n\
         [ssh]\nconfig = {config}\n\n\
         [host]\nat = \"{HOST}\"\nsudo = true\ncard = \"10de:1d01\"\nreboot = true\n\n\
         [vm]\nid = \"{VM}\"\nstart = true\n\n\
         [guest]\nat = \"{GUEST}\"\ndriver = \"present\"\n\n\
         # No engine is there: runc, with thruway's runtime before it.\n\
         [container]\ntest_command = \"{CONTAINER}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_told_both_machines_and_trusts_no_other_key() {
        let text = ssh_config(Path::new("/tmp/a b"), 4022, "lab");
        for line in [
            "  HostName 127.0.0.1\n  Port 4022\n  User lab\n",
            "  ProxyJump lab-host\n",
            "  StrictHostKeyChecking yes\n",
            "  UserKnownHostsFile \"/tmp/a b/known_hosts\"\n",
            "  IdentitiesOnly yes\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn keys_are_known_by_name_without_their_comment() {
        let known = known_hosts("ssh-ed25519 AAAA1 someone@somewhere\n", "ssh-ed25519 AAAA2\n");
        assert_eq!(known.as_deref(), Some("lab-host ssh-ed25519 AAAA1\nlab-guest ssh-ed25519 AAAA2\n"));
        assert_eq!(known_hosts("nonsense", "ssh-ed25519 AAAA2"), None);
    }

    #[test]
    fn the_way_is_toml_and_names_what_ssh_knows() {
        let way: toml::Table = way(Path::new("/tmp/a \"b\"/ssh_config")).parse().expect("TOML");
        assert_eq!(way["ssh"]["config"].as_str(), Some("/tmp/a \"b\"/ssh_config"));
        assert_eq!(way["host"]["at"].as_str(), Some(HOST));
        assert_eq!(way["guest"]["at"].as_str(), Some(GUEST));
        assert_eq!(way["vm"]["id"].as_str(), Some(VM));
        assert!(include_str!("guest.xml").contains(&format!("<name>{VM}</name>")));
        assert!(include_str!("guest.sh").contains(&format!("{ADDRESS}/24")));
    }
}
