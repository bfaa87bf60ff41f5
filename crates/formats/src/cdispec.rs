//! Container Device Interface specifications (CNCF CDI 1.1.0): read JSON and YAML, judge, write JSON.
//!
//! A spec is generated whole, so nothing here edits one in place: [`parse`] then [`to_json`] keeps every field that the
//! specification knows, and a field that it does not know is an error, as it is for the engines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// One spec file: devices of one kind, and the edits that each of them brings along.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    pub cdi_version: String,
    /// `vendor/class`, e.g. `nvidia.com/gpu`.
    pub kind: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Applied once, after those of the devices, if any device of the spec is asked for.
    #[serde(default, skip_serializing_if = "Edits::is_empty")]
    pub container_edits: Edits,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    pub name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub container_edits: Edits,
}

/// What is done to a container's OCI configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edits {
    /// `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device node. The engine looks up what is left out; a number that is written wins over the live one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Permission bits as a decimal number: 438 is 0666.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// A subset of `rwm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

impl DeviceNode {
    /// Its path on the host.
    pub fn host(&self) -> &str {
        self.host_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(&self.path)
    }

    /// What a container may do with it, of `rwm`: all of it where the spec says nothing; "none" is empty.
    pub fn access(&self) -> &str {
        match self.permissions.as_deref() {
            None | Some("") => "rwm",
            Some("none") => "",
            Some(access) => access,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    pub host_path: String,
    pub container_path: String,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// `createRuntime`, `createContainer`, …
    pub hook_name: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        *self == Edits::default()
    }
}

impl Spec {
    /// All edits of the spec: those of its devices, then the common ones.
    pub fn edits(&self) -> impl Iterator<Item = &Edits> {
        self.devices.iter().map(|device| &device.container_edits).chain([&self.container_edits])
    }

    /// The lowest version of the specification that has every field used here. Old engines refuse newer versions, so
    /// a spec should never claim more than it needs.
    pub fn needed_version(&self) -> &'static str {
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let mut needed = 0;
        let mut need = |index: usize, yes: bool| {
            if yes && index > needed {
                needed = index;
            }
        };
        for edits in self.edits() {
            need(1, edits.mounts.iter().any(|mount| mount.kind.is_some()));
            need(2, edits.device_nodes.iter().any(|node| node.host_path.is_some()));
            need(4, edits.intel_rdt.is_some() || !edits.additional_gids.is_empty());
            need(5, !edits.net_devices.is_empty());
            let rdt = edits.intel_rdt.as_ref();
            need(5, rdt.is_some_and(|rdt| rdt.get("schemata").or_else(|| rdt.get("enableMonitoring")).is_some()));
        }
        need(2, self.devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit())));
        need(3, !self.annotations.is_empty() || self.devices.iter().any(|device| !device.annotations.is_empty()));
        need(3, class.contains('.'));
        NEEDED.get(needed).copied().unwrap_or("1.1.0")
    }

    /// What the engines would refuse this spec for, one sentence each; empty where it is sound.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        match VERSIONS.iter().position(|known| *known == self.cdi_version) {
            None => found.push(format!("cdiVersion \"{}\" is unknown", clip(&self.cdi_version))),
            Some(stated) => {
                let needed = self.needed_version();
                if VERSIONS.iter().position(|known| *known == needed) > Some(stated) {
                    found.push(format!("cdiVersion {} is too low: its fields need {needed}", self.cdi_version));
                }
            }
        }
        match self.kind.split_once('/') {
            Some((vendor, class)) if name_ok(vendor, "_-.") && name_ok(class, "_-.") => {}
            _ => found.push(format!("kind \"{}\" is not vendor/class", clip(&self.kind))),
        }
        if self.devices.is_empty() {
            found.push("it has no devices".into());
        }
        let mut seen = BTreeSet::new();
        for device in &self.devices {
            if !device_name_ok(&device.name) {
                found.push(format!("\"{}\" is no device name", clip(&device.name)));
            }
            if !seen.insert(device.name.as_str()) {
                found.push(format!("device \"{}\" stands there twice", clip(&device.name)));
            }
            if device.container_edits.is_empty() {
                found.push(format!("device \"{}\" changes nothing", clip(&device.name)));
            }
        }
        for edits in self.edits() {
            edits.problems(&mut found);
        }
        found
    }
}

impl Edits {
    fn problems(&self, found: &mut Vec<String>) {
        for env in &self.env {
            if env.find('=').is_none_or(|at| at == 0) {
                found.push(format!("env \"{}\" is not NAME=value", clip(env)));
            }
        }
        for node in &self.device_nodes {
            if !node.path.starts_with('/') {
                found.push(format!("device node \"{}\" is no absolute path", clip(&node.path)));
            }
            if node.kind.as_deref().is_some_and(|kind| !["b", "c", "u", "p", ""].contains(&kind)) {
                found.push(format!("device node {} has an unknown type", clip(&node.path)));
            }
            if node.permissions.as_deref().is_some_and(|text| text.chars().any(|c| !"rwm".contains(c))) {
                found.push(format!("device node {} has permissions beyond rwm", clip(&node.path)));
            }
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() || mount.container_path.is_empty() {
                found.push("a mount lacks its host path or its container path".into());
            }
        }
        for hook in &self.hooks {
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                found.push(format!("hook name \"{}\" is unknown", clip(&hook.hook_name)));
            }
            if hook.path.is_empty() {
                found.push("a hook lacks its path".into());
            }
        }
    }
}

/// The released versions, oldest first.
/// Where engines look for specs, in rising priority.
pub const SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// Those among them that brought a field.
const NEEDED: [&str; 6] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "1.1.0"];
/// The stages that a hook may have (runtime-spec, "POSIX-platform Hooks").
pub const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A vendor or class: a letter first, a letter or digit last, and these between.
fn name_ok(name: &str, between: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || between.contains(c))
}

fn device_name_ok(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
}

/// Why a text is no CDI spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiError {
    /// 1-based; 0 where the parser could not say.
    pub line: u32,
    pub says: String,
}

impl fmt::Display for CdiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.says)
    }
}

impl std::error::Error for CdiError {}

/// The two file forms; the engines read no other and choose by the file's extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Yaml,
}

impl Form {
    /// By the extension, `.json` or `.yaml`; `None` for files that engines pass over (`.yml` among them).
    pub fn of_path(path: &str) -> Option<Form> {
        if path.ends_with(".json") {
            Some(Form::Json)
        } else if path.ends_with(".yaml") {
            Some(Form::Yaml)
        } else {
            None
        }
    }
}

/// Reads a spec. Unknown fields, wrong types and broken syntax are errors with their line; whether names and versions
/// are sound is said by [`Spec::problems`].
pub fn parse(bytes: &[u8], form: Form) -> Result<Spec, CdiError> {
    let text = std::str::from_utf8(bytes).map_err(|bad| {
        let before = bytes.get(..bad.valid_up_to()).unwrap_or_default();
        CdiError { line: 1 + before.iter().filter(|b| **b == b'\n').count() as u32, says: "is no UTF-8".into() }
    })?;
    match form {
        Form::Json => serde_json::from_str(text).map_err(|bad| {
            let says = bad.to_string();
            // The parser appends " at line 3 column 7", which stands in its own field here.
            let says = says.rsplit_once(" at line ").map_or(says.as_str(), |(front, _)| front).to_owned();
            CdiError { line: bad.line() as u32, says }
        }),
        Form::Yaml => serde_saphyr::from_str(text).map_err(|bad| {
            let line = bad.location().map_or(0, |at| u32::try_from(at.line()).unwrap_or(u32::MAX));
            let says = bad.without_snippet().to_string();
            CdiError { line, says: says.lines().next().unwrap_or("is no YAML").to_owned() }
        }),
    }
}

/// The spec as pretty-printed JSON with a newline at its end, in the specification's order of fields.
pub fn to_json(spec: &Spec) -> String {
    let mut text = serde_json::to_string_pretty(spec).unwrap_or_default();
    text.push('\n');
    text
}

fn clip(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small() -> Spec {
        let node = DeviceNode { path: "/dev/nvidia0".into(), ..DeviceNode::default() };
        let edits = Edits { device_nodes: vec![node], ..Edits::default() };
        let device = Device { name: "gpu0".into(), container_edits: edits, ..Device::default() };
        Spec { cdi_version: "0.3.0".into(), kind: "nvidia.com/gpu".into(), devices: vec![device], ..Spec::default() }
    }

    #[test]
    fn the_version_is_the_lowest_that_has_the_fields() {
        let mut spec = small();
        assert_eq!(spec.needed_version(), "0.3.0");
        spec.devices[0].name = "0".into();
        assert_eq!(spec.needed_version(), "0.5.0");
        assert_eq!(spec.problems(), ["cdiVersion 0.3.0 is too low: its fields need 0.5.0"]);
        spec.devices[0].annotations.insert("a".into(), "b".into());
        assert_eq!(spec.needed_version(), "0.6.0");
        spec.container_edits.additional_gids.push(44);
        assert_eq!(spec.needed_version(), "0.7.0");
        spec.container_edits.net_devices.push(serde_json::json!({"hostInterfaceName": "a", "name": "b"}));
        assert_eq!(spec.needed_version(), "1.1.0");
        spec.cdi_version = "1.1.0".into();
        assert!(spec.problems().is_empty(), "{:?}", spec.problems());
    }

    #[test]
    fn names_are_judged() {
        let mut spec = small();
        spec.devices.push(spec.devices[0].clone());
        spec.kind = "nvidia".into();
        spec.devices[1].name = "mig:0:1-".into();
        spec.cdi_version = "9.9.9".into();
        let problems = spec.problems();
        assert_eq!(
            problems,
            [
                "cdiVersion \"9.9.9\" is unknown",
                "kind \"nvidia\" is not vendor/class",
                "\"mig:0:1-\" is no device name"
            ]
        );
    }

    #[test]
    fn yaml_as_the_vendors_tool_writes_it() {
        let text = "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n    - name: \"0\"\n      containerEdits:\n        \
                    deviceNodes:\n            - path: /dev/nvidia0\n              major: 195\n              fileMode: 438\n              \
                    permissions: rwm\ncontainerEdits:\n    env:\n        - NVIDIA_VISIBLE_DEVICES=void\n    hooks:\n        \
                    - hookName: createContainer\n          path: /usr/bin/nvidia-cdi-hook\n          args:\n              \
                    - nvidia-cdi-hook\n              - update-ldcache\n";
        let spec = parse(text.as_bytes(), Form::Yaml).unwrap();
        assert_eq!(spec.devices[0].container_edits.device_nodes[0].major, Some(195));
        assert_eq!(spec.container_edits.hooks[0].args, ["nvidia-cdi-hook", "update-ldcache"]);
        assert!(spec.problems().is_empty(), "{:?}", spec.problems());
    }

    #[test]
    fn errors_have_their_line() {
        let bad = parse(b"{\n \"cdiVersion\": \"0.5.0\",\n \"kid\": \"a/b\"\n}", Form::Json).unwrap_err();
        assert_eq!(bad.line, 3);
        assert!(bad.says.contains("kid"), "{}", bad.says);
        let bad = parse(b"cdiVersion: 0.5.0\nkind: a/b\nkid: 3\n", Form::Yaml).unwrap_err();
        assert_eq!(bad.line, 3, "{bad}");
        assert_eq!(parse(b"{\n\xff", Form::Json).unwrap_err().line, 2);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, Form::Json);
            let _ = parse(&bytes, Form::Yaml);
        }

        #[test]
        fn random_yaml_never_panics(text in "[-a-zA-Z0-9:{}\\[\\]\"'&*!|> \n]{0,200}") {
            if let Ok(spec) = parse(text.as_bytes(), Form::Yaml) {
                let _ = spec.problems();
            }
        }

        #[test]
        fn printing_keeps_all(
            names in proptest::collection::vec("[a-z0-9]{1,8}", 1..4),
            env in proptest::collection::vec("[A-Z]{1,6}=[ -~]{0,8}", 0..3),
            major in proptest::option::of(0i64..512),
            gids in proptest::collection::vec(any::<u32>(), 0..3),
        ) {
            let mut spec = small();
            spec.container_edits.env = env;
            spec.container_edits.additional_gids = gids;
            spec.devices[0].container_edits.device_nodes[0].major = major;
            let first = spec.devices[0].clone();
            spec.devices = names.into_iter().map(|name| Device { name, ..first.clone() }).collect();
            let printed = to_json(&spec);
            prop_assert_eq!(&parse(printed.as_bytes(), Form::Json).unwrap(), &spec);
            // JSON is YAML: what we write is read by both.
            prop_assert_eq!(&parse(printed.as_bytes(), Form::Yaml).unwrap(), &spec);
        }
    }
}
