//! The parameters of POST and PUT /nodes/{node}/qemu/{vmid}/config: form, and the privilege each needs.
//!
//! Source: the API's description (api-viewer), and PVE::API2::Qemu for the privileges.

/// A key of a VM's configuration.
pub(super) struct Key {
    pub name: &'static str,
    /// Numbered, below this: hostpci0 … hostpci15.
    pub many: Option<u32>,
    pub form: Form,
    /// What /vms/VMID needs of others than root@pam; none: root@pam alone.
    pub needs: Option<&'static str>,
}

pub(super) enum Form {
    Any,
    Bool,
    Number(u64, u64),
    One(&'static [&'static str]),
    HostPci,
}

const fn key(name: &'static str, many: Option<u32>, form: Form, needs: Option<&'static str>) -> Key {
    Key { name, many, form, needs }
}

const SCSI: &[&str] = &["lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"];

pub(super) static KEYS: &[Key] = &[
    key("args", None, Form::Any, None),
    key("balloon", None, Form::Number(0, u64::MAX), Some("VM.Config.Memory")),
    key("bios", None, Form::One(&["seabios", "ovmf"]), Some("VM.Config.Options")),
    key("cores", None, Form::Number(1, 1024), Some("VM.Config.CPU")),
    key("cpu", None, Form::Any, Some("VM.Config.CPU")),
    key("description", None, Form::Any, Some("VM.Config.Options")),
    key("efidisk", Some(1), Form::Any, Some("VM.Config.Disk")),
    key("hostpci", Some(16), Form::HostPci, Some("VM.Config.HWType")),
    key("machine", None, Form::Any, Some("VM.Config.HWType")),
    key("memory", None, Form::Any, Some("VM.Config.Memory")),
    key("name", None, Form::Any, Some("VM.Config.Options")),
    key("numa", None, Form::Bool, Some("VM.Config.CPU")),
    key("onboot", None, Form::Bool, Some("VM.Config.Options")),
    key("ostype", None, Form::Any, Some("VM.Config.Options")),
    key("scsi", Some(31), Form::Any, Some("VM.Config.Disk")),
    key("scsihw", None, Form::One(SCSI), Some("VM.Config.HWType")),
    key("serial", Some(4), Form::Any, Some("VM.Config.HWType")),
    key("sockets", None, Form::Number(1, 1024), Some("VM.Config.CPU")),
    key("vga", None, Form::Any, Some("VM.Config.HWType")),
];

/// The key that a parameter is, where there is one.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| match key.many {
        None => key.name == name,
        Some(many) => name.strip_prefix(key.name).is_some_and(|digits| {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u32>().is_ok_and(|number| number < many)
        }),
    })
}

impl Form {
    /// What is wrong with a value, in the API's words.
    pub fn wrong(&self, value: &str) -> Option<String> {
        match self {
            Form::Any => None,
            Form::Bool => (!matches!(value, "0" | "1" | "on" | "off" | "yes" | "no"))
                .then(|| format!("type check ('boolean') failed - got '{value}'")),
            Form::Number(least, most) => match value.parse::<u64>() {
                Err(_) => Some(format!("type check ('integer') failed - got '{value}'")),
                Ok(number) if number < *least => Some(format!("value must have a minimum value of {least}")),
                Ok(number) if number > *most => Some(format!("value must have a maximum value of {most}")),
                Ok(_) => None,
            },
            Form::One(words) => (!words.contains(&value))
                .then(|| format!("value '{value}' does not have a value in the enumeration '{}'", words.join(", "))),
            Form::HostPci => host_pci(value),
        }
    }
}

const OPTIONS: &[&str] = &[
    "host",
    "mapping",
    "pcie",
    "x-vga",
    "rombar",
    "romfile",
    "mdev",
    "legacy-igd",
    "vendor-id",
    "device-id",
    "sub-vendor-id",
    "sub-device-id",
    "driver",
];

fn host_pci(value: &str) -> Option<String> {
    let mut host = None;
    let mut mapping = None;
    for (at, part) in value.split(',').enumerate() {
        match part.split_once('=') {
            Some(("host", text)) => host = Some(text),
            Some(("mapping", text)) => mapping = Some(text),
            Some((name, _)) if OPTIONS.contains(&name) => {}
            None if at == 0 => host = Some(part),
            _ => return Some(format!("invalid format - format error\n{part}: property is not defined in schema")),
        }
    }
    let address = |text: &str| {
        let text = text.split_once('.').map_or(text, |(slot, function)| if function.len() == 1 { slot } else { "" });
        let parts: Vec<&str> = text.split(':').collect();
        let hex = |part: &&str| !part.is_empty() && part.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
        (parts.len() == 2 || parts.len() == 3) && parts.iter().all(hex)
    };
    match (host, mapping) {
        (Some(_), Some(_)) => Some("Cannot set both 'host' and 'mapping'.".into()),
        (None, None) => Some("either 'host' or 'mapping' must be set".into()),
        (Some(host), None) => (!host.split(';').all(address))
            .then(|| "invalid format - format error\nhost: value does not match the regex pattern".into()),
        (None, Some(_)) => None,
    }
}
