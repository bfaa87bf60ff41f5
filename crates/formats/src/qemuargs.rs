//! A QEMU command line as facts: which host devices a process really has, its name, machine and firmware.
//!
//! Read from `/proc/PID/cmdline` (NUL between arguments). With iommufd, libvirt hands descriptors over and the
//! address is not on the command line; then [`VfioDev::host`] is none. Source: QEMU's own option documentation.

use model::Bdf;

use crate::propstr::PropStr;

/// What a QEMU command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct QemuArgs {
    /// The program, e.g. "/usr/bin/kvm".
    pub program: String,
    /// `-id`: Proxmox VE's VMID.
    pub id: Option<u32>,
    /// `-name`, its default key or `guest=`.
    pub name: Option<String>,
    /// `-machine` or `-M`, the type only: "q35", "pc-i440fx-6.1"; later ones override.
    pub machine: Option<String>,
    /// `-bios` or the file of the first pflash drive: set where the firmware is UEFI.
    pub firmware: Option<String>,
    /// `-m` in MiB.
    pub memory_mib: Option<u64>,
    /// `-cpu`, the model only.
    pub cpu: Option<String>,
    pub vfio: Vec<VfioDev>,
    /// A virtio-balloon device is there.
    pub balloon: bool,
}

/// One `-device vfio-pci,…`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct VfioDev {
    pub host: Option<Bdf>,
    pub sysfsdev: Option<String>,
    pub id: Option<String>,
    /// The guest's bus and address on it: "ich9-pcie-port-1", "0x0.0".
    pub bus: Option<String>,
    pub addr: Option<String>,
    pub multifunction: bool,
}

impl QemuArgs {
    /// Reads `/proc/PID/cmdline`. None where the program is no QEMU (`kvm`, `qemu-system-*`, `qemu-kvm`).
    pub fn from_cmdline(bytes: &[u8]) -> Option<QemuArgs> {
        let args: Vec<String> =
            bytes.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        let program = args.first()?;
        let base = program.rsplit('/').next().unwrap_or_default();
        let qemu = base == "kvm" || base == "qemu-kvm" || base.starts_with("qemu-system-");
        if !qemu {
            return None;
        }
        let mut found = QemuArgs::from_args(args.get(1..).unwrap_or_default());
        found.program = program.clone();
        Some(found)
    }

    /// Reads arguments without the program's name, e.g. the words of `args:` in a Proxmox VE file.
    pub fn from_args<S: AsRef<str>>(args: &[S]) -> QemuArgs {
        let mut found = QemuArgs::default();
        let mut args = args.iter().map(AsRef::as_ref);
        while let Some(option) = args.next() {
            let Some(option) = option.strip_prefix("--").or_else(|| option.strip_prefix('-')) else { continue };
            match option {
                "id" => found.id = args.next().and_then(|text| text.parse().ok()).or(found.id),
                "name" => found.name = args.next().and_then(name),
                "machine" | "M" => {
                    let Some(text) = args.next() else { continue };
                    if let Some(kind) = PropStr::parse(text).default_or("type") {
                        found.machine = Some(kind.to_owned());
                    }
                }
                "bios" => found.firmware = args.next().map(str::to_owned),
                "cpu" => found.cpu = args.next().and_then(|text| text.split(',').next()).map(str::to_owned),
                "m" => found.memory_mib = args.next().and_then(memory),
                "drive" | "blockdev" => drive(args.next().unwrap_or_default(), &mut found),
                "device" => device(args.next().unwrap_or_default(), &mut found),
                _ => {}
            }
        }
        found
    }

    /// True where the process has this function.
    pub fn has(&self, bdf: Bdf) -> bool {
        self.vfio.iter().any(|device| device.host == Some(bdf))
    }
}

fn name(text: &str) -> Option<String> {
    PropStr::parse(text).default_or("guest").map(str::to_owned)
}

/// `-m 8192`, `-m size=8G,slots=…`: MiB where no unit stands.
fn memory(text: &str) -> Option<u64> {
    let props = PropStr::parse(text);
    let size = props.default_or("size")?;
    let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match size.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "m" => Some(number),
        "k" => Some(number / 1024),
        "g" => number.checked_mul(1024),
        "t" => number.checked_mul(1024 * 1024),
        _ => None,
    }
}

fn drive(text: &str, found: &mut QemuArgs) {
    if text.starts_with('{') {
        let Ok(json) = serde_json::from_str::<serde_json::Value>(text) else { return };
        let node = json.get("node-name").and_then(|name| name.as_str()).unwrap_or_default();
        let file = json.get("filename").and_then(|name| name.as_str());
        // libvirt and Proxmox VE call the code volume "libvirt-pflash0-storage", "pflash0"
        if let Some(file) = file.filter(|_| node.contains("pflash0")) {
            found.firmware.get_or_insert_with(|| file.to_owned());
        }
        return;
    }
    let props = PropStr::parse(text);
    if props.get("if") == Some("pflash") {
        let file = props.get("file").unwrap_or("pflash").to_owned();
        found.firmware.get_or_insert(file);
    }
}

fn device(text: &str, found: &mut QemuArgs) {
    if text.starts_with('{') {
        let Ok(json) = serde_json::from_str::<serde_json::Value>(text) else { return };
        let word = |key: &str| json.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        let driver = word("driver").unwrap_or_default();
        found.balloon |= driver.starts_with("virtio-balloon");
        if driver == "vfio-pci" {
            found.vfio.push(VfioDev {
                host: word("host").and_then(|host| host.parse().ok()),
                sysfsdev: word("sysfsdev"),
                id: word("id"),
                bus: word("bus"),
                addr: word("addr"),
                multifunction: json.get("multifunction").and_then(serde_json::Value::as_bool).unwrap_or(false),
            });
        }
        return;
    }
    let props = PropStr::parse(text);
    let driver = props.default_or("driver").unwrap_or_default();
    found.balloon |= driver.starts_with("virtio-balloon");
    if driver == "vfio-pci" {
        let word = |key: &str| props.get(key).map(str::to_owned);
        let sysfsdev = word("sysfsdev");
        let from_sysfs = || sysfsdev.as_deref().and_then(|path| path.trim_end_matches('/').rsplit('/').next());
        found.vfio.push(VfioDev {
            host: props.get("host").or_else(from_sysfs).and_then(|host| host.parse().ok()),
            sysfsdev: sysfsdev.clone(),
            id: word("id"),
            bus: word("bus"),
            addr: word("addr"),
            multifunction: props.bool("multifunction").unwrap_or(false),
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nul(text: &str) -> Vec<u8> {
        text.split_whitespace().flat_map(|word| word.bytes().chain([0])).collect()
    }

    #[test]
    fn a_proxmox_process() {
        let line = "/usr/bin/kvm -id 100 -name mufti-4,debug-threads=on -no-shutdown \
            -drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/pve-edk2-firmware//OVMF_CODE_4M.secboot.fd \
            -drive if=pflash,unit=1,format=raw,id=drive-efidisk0,file=/dev/pve/vm-100-disk-1 -smp 4 -cpu host,kvm=off \
            -m 8192 -device vfio-pci,host=0000:26:00.0,id=hostpci0.0,bus=ich9-pcie-port-1,addr=0x0.0,multifunction=on \
            -device vfio-pci,host=0000:26:00.1,id=hostpci0.1,bus=ich9-pcie-port-1,addr=0x0.1 \
            -machine type=q35+pve0";
        let args = QemuArgs::from_cmdline(&nul(line)).expect("QEMU");
        assert_eq!((args.id, args.name.as_deref()), (Some(100), Some("mufti-4")));
        assert_eq!((args.machine.as_deref(), args.memory_mib), (Some("q35+pve0"), Some(8192)));
        assert!(args.firmware.as_deref().is_some_and(|path| path.ends_with("OVMF_CODE_4M.secboot.fd")));
        assert_eq!(args.cpu.as_deref(), Some("host"));
        assert!(args.has("0000:26:00.0".parse().expect("an address")) && args.has(Bdf::new(0, 0x26, 0, 1)));
        assert!(!args.has(Bdf::new(0, 0x27, 0, 0)));
        assert!(args.vfio.first().is_some_and(|device| device.multifunction));
        assert!(!args.balloon);
    }

    #[test]
    fn json_and_sysfs_forms() {
        let args = QemuArgs::from_args(&[
            "-name",
            "guest=media,debug-threads=on",
            "-blockdev",
            r#"{"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE_4M.fd","node-name":"libvirt-pflash0-storage"}"#,
            "-m",
            "size=8G",
            "-device",
            r#"{"driver":"vfio-pci","host":"0000:01:00.0","id":"hostdev0","bus":"pci.5","multifunction":true,"addr":"0x0"}"#,
            "-device",
            "vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:01:00.1",
            "-device",
            r#"{"driver":"virtio-balloon-pci","id":"balloon0"}"#,
        ]);
        assert_eq!(args.name.as_deref(), Some("media"));
        assert_eq!(args.memory_mib, Some(8192));
        assert_eq!(args.firmware.as_deref(), Some("/usr/share/OVMF/OVMF_CODE_4M.fd"));
        assert!(args.has(Bdf::new(0, 1, 0, 0)) && args.has(Bdf::new(0, 1, 0, 1)));
        assert!(args.balloon);
    }

    #[test]
    fn another_program_is_none() {
        assert_eq!(QemuArgs::from_cmdline(&nul("/usr/bin/qemu-img info x")), None);
        assert_eq!(QemuArgs::from_cmdline(b""), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut line = b"/usr/bin/kvm\0-device\0".to_vec();
            line.extend(&bytes);
            prop_assert!(QemuArgs::from_cmdline(&line).is_some());
        }
    }
}
