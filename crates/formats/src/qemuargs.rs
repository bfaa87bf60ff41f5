//! A QEMU command line as facts: which host devices a process really has, its name, machine and firmware.
//!
//! Read from `/proc/PID/cmdline` (NUL between arguments), with the files of `-readconfig` where the caller has them.
//! With iommufd, libvirt hands descriptors over and the address is not on the command line; then [`VfioDev::host`] is
//! none and [`VfioDev::fd`] says which descriptor leads to `/dev/vfio/devices/vfioN`. [`QemuArgs::to_args`] writes the
//! facts as arguments again. In QEMU's option strings a comma in a value is written twice. Source: QEMU's own option
//! documentation; docs/config in QEMU's tree for `-readconfig`.

mod config;

use model::Bdf;

use crate::hint;

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
    /// `-smbios type=11`: those OEM strings that are hints ([`crate::hint`]). Others may be secrets and are not kept.
    pub hints: Vec<String>,
    /// A virtio-balloon device is there.
    pub balloon: bool,
    /// `-readconfig` files whose text was not at hand: what they add is not known.
    pub unread: Vec<String>,
}

/// One `-device vfio-pci,…`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VfioDev {
    pub host: Option<Bdf>,
    pub sysfsdev: Option<String>,
    pub id: Option<String>,
    /// The guest's bus and address on it: "ich9-pcie-port-1", "0x0.0".
    pub bus: Option<String>,
    pub addr: Option<String>,
    pub multifunction: bool,
    /// The id of the `-object iommufd` that it uses.
    pub iommufd: Option<String>,
    /// The descriptor of its character device, handed over by libvirt: "24".
    pub fd: Option<String>,
}

impl QemuArgs {
    /// Reads `/proc/PID/cmdline`. None where the program is no QEMU (`kvm`, `qemu-system-*`, `qemu-kvm`).
    pub fn from_cmdline(bytes: &[u8]) -> Option<QemuArgs> {
        QemuArgs::from_cmdline_with(bytes, &mut |_| None)
    }

    /// The same, with `read` giving the text of a `-readconfig` file by its path as written.
    pub fn from_cmdline_with(bytes: &[u8], read: &mut dyn FnMut(&str) -> Option<String>) -> Option<QemuArgs> {
        let args: Vec<String> =
            bytes.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        let program = args.first()?;
        let base = program.rsplit('/').next().unwrap_or_default();
        let qemu = base == "kvm" || base == "qemu-kvm" || base.starts_with("qemu-system-");
        if !qemu {
            return None;
        }
        let mut found = QemuArgs::from_args_with(args.get(1..).unwrap_or_default(), read);
        found.program = program.clone();
        Some(found)
    }

    /// Reads arguments without the program's name, e.g. the words of `args:` in a Proxmox VE file.
    pub fn from_args<S: AsRef<str>>(args: &[S]) -> QemuArgs {
        QemuArgs::from_args_with(args, &mut |_| None)
    }

    /// The same, with `read` giving the text of a `-readconfig` file.
    pub fn from_args_with<S: AsRef<str>>(args: &[S], read: &mut dyn FnMut(&str) -> Option<String>) -> QemuArgs {
        let mut found = QemuArgs::default();
        let mut args = args.iter().map(AsRef::as_ref);
        while let Some(option) = args.next() {
            let Some(option) = option.strip_prefix("--").or_else(|| option.strip_prefix('-')) else { continue };
            match option {
                "id" => found.id = args.next().and_then(|text| text.parse().ok()).or(found.id),
                "name" => found.take("name", &Opts::parse(args.next().unwrap_or_default(), "guest")),
                "machine" | "M" => found.take("machine", &Opts::parse(args.next().unwrap_or_default(), "type")),
                "bios" => found.firmware = args.next().map(str::to_owned),
                "cpu" => found.cpu = args.next().and_then(|text| text.split(',').next()).map(str::to_owned),
                "m" => found.take("memory", &Opts::parse(args.next().unwrap_or_default(), "size")),
                "drive" => found.take("drive", &Opts::parse(args.next().unwrap_or_default(), "file")),
                "smbios" => found.take("smbios", &Opts::parse(args.next().unwrap_or_default(), "file")),
                "blockdev" => blockdev(args.next().unwrap_or_default(), &mut found),
                "device" => {
                    let text = args.next().unwrap_or_default();
                    found.take("device", &Opts::json(text).unwrap_or_else(|| Opts::parse(text, "driver")));
                }
                "readconfig" => {
                    let path = args.next().unwrap_or_default();
                    match read(path) {
                        Some(text) => config::groups(&text).iter().for_each(|(name, opts)| found.take(name, opts)),
                        None => found.unread.push(path.to_owned()),
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// One group of options, from the command line or a configuration file.
    fn take(&mut self, group: &str, opts: &Opts) {
        match group {
            "name" => self.name = opts.get("guest").map(str::to_owned).or(self.name.take()),
            "machine" => self.machine = opts.get("type").map(str::to_owned).or(self.machine.take()),
            "memory" => self.memory_mib = opts.get("size").and_then(memory).or(self.memory_mib),
            "smbios" if opts.get("type") == Some("11") => {
                let values = opts.0.iter().filter(|(key, value)| key == "value" && value.starts_with(hint::PREFIX));
                self.hints.extend(values.map(|(_, value)| value.clone()));
            }
            "drive" if opts.get("if") == Some("pflash") => {
                let file = opts.get("file").unwrap_or("pflash");
                self.firmware.get_or_insert_with(|| file.to_owned());
            }
            "device" => {
                let driver = opts.get("driver").unwrap_or_default();
                self.balloon |= driver.starts_with("virtio-balloon");
                if driver == "vfio-pci" {
                    self.vfio.push(VfioDev::read(opts));
                }
            }
            _ => {}
        }
    }

    /// True where the process has this function.
    pub fn has(&self, bdf: Bdf) -> bool {
        self.vfio.iter().any(|device| device.host == Some(bdf))
    }

    /// The facts as arguments, the program left out: what `from_args` reads back into the same facts. A `-bios` or
    /// pflash firmware is written as a read-only pflash drive; Proxmox VE's `-id` is written only where it is set,
    /// for QEMU itself does not know it.
    pub fn to_args(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
        if let Some(id) = self.id {
            add("-id", id.to_string());
        }
        if let Some(name) = &self.name {
            add("-name", format!("guest={}", escape(name)));
        }
        if let Some(machine) = &self.machine {
            add("-machine", format!("type={}", escape(machine)));
        }
        if let Some(cpu) = &self.cpu {
            add("-cpu", cpu.clone());
        }
        if let Some(mib) = self.memory_mib {
            add("-m", format!("size={mib}M"));
        }
        if let Some(file) = &self.firmware {
            add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={}", escape(file)));
        }
        for hint in &self.hints {
            add("-smbios", format!("type=11,value={}", escape(hint)));
        }
        let mut fds: Vec<&str> = self.vfio.iter().filter_map(|device| device.iommufd.as_deref()).collect();
        fds.sort_unstable();
        fds.dedup();
        for id in fds {
            add("-object", format!("iommufd,id={}", escape(id)));
        }
        for device in &self.vfio {
            add("-device", device.to_opts());
        }
        if self.balloon {
            add("-device", "virtio-balloon-pci".into());
        }
        for path in &self.unread {
            add("-readconfig", path.clone());
        }
        args
    }
}

impl VfioDev {
    fn read(opts: &Opts) -> VfioDev {
        let word = |key: &str| opts.get(key).map(str::to_owned);
        let sysfsdev = word("sysfsdev");
        let from_sysfs = || sysfsdev.as_deref().and_then(|path| path.trim_end_matches('/').rsplit('/').next());
        VfioDev {
            host: opts.get("host").or_else(from_sysfs).and_then(|host| host.parse().ok()),
            id: word("id"),
            bus: word("bus"),
            addr: word("addr"),
            multifunction: opts.get("multifunction").is_some_and(|on| matches!(on, "on" | "yes" | "true" | "y")),
            iommufd: word("iommufd"),
            fd: word("fd"),
            sysfsdev,
        }
    }

    fn to_opts(&self) -> String {
        let host = self.host.filter(|_| self.sysfsdev.is_none()).map(|host| host.to_string());
        let pairs = [
            ("host", host.as_ref()),
            ("sysfsdev", self.sysfsdev.as_ref()),
            ("id", self.id.as_ref()),
            ("bus", self.bus.as_ref()),
            ("addr", self.addr.as_ref()),
            ("iommufd", self.iommufd.as_ref()),
            ("fd", self.fd.as_ref()),
        ];
        let mut text = String::from("vfio-pci");
        for (key, value) in pairs {
            if let Some(value) = value {
                text.push_str(&format!(",{key}={}", escape(value)));
            }
        }
        if self.multifunction {
            text.push_str(",multifunction=on");
        }
        text
    }
}

/// One option string or group of a configuration file, as (key, value).
#[derive(Clone, Debug, Default)]
struct Opts(Vec<(String, String)>);

impl Opts {
    /// `value,key=value,flag`: a bare first item is the value of `first`, another bare item is a flag that is on.
    fn parse(text: &str, first: &str) -> Opts {
        let mut items = vec![String::new()];
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter == ',' && letters.next_if_eq(&',').is_none() {
                items.push(String::new());
            } else if let Some(item) = items.last_mut() {
                item.push(letter);
            }
        }
        let pairs = items.into_iter().enumerate().filter(|(_, item)| !item.is_empty()).map(|(index, item)| match item
            .split_once('=')
        {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None if index == 0 => (first.to_owned(), item),
            None => (item, "on".to_owned()),
        });
        Opts(pairs.collect())
    }

    /// The JSON form; none where the text is not one.
    fn json(text: &str) -> Option<Opts> {
        if !text.starts_with('{') {
            return None;
        }
        let json: serde_json::Value = serde_json::from_str(text).ok()?;
        let pairs = json.as_object()?.iter().filter_map(|(key, value)| {
            let value = match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
                serde_json::Value::Number(number) => number.to_string(),
                _ => return None,
            };
            Some((key.clone(), value))
        });
        Some(Opts(pairs.collect()))
    }

    /// The last value of a key.
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// A value as it stands in an option string.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// `8192`, `8G`: MiB where no unit stands.
fn memory(size: &str) -> Option<u64> {
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

/// libvirt and Proxmox VE call the firmware's code volume "libvirt-pflash0-storage", "pflash0".
fn blockdev(text: &str, found: &mut QemuArgs) {
    let Some(opts) = Opts::json(text) else { return };
    let code = opts.get("node-name").is_some_and(|node| node.contains("pflash0"));
    if let Some(file) = opts.get("filename").filter(|_| code) {
        found.firmware.get_or_insert_with(|| file.to_owned());
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

    #[test]
    fn a_comma_in_a_value_stands_twice() {
        let args = QemuArgs::from_args(&["-name", "guest=a,,b,debug-threads=on", "-drive", "if=pflash,file=/x,,y.fd"]);
        assert_eq!((args.name.as_deref(), args.firmware.as_deref()), (Some("a,b"), Some("/x,y.fd")));
    }

    #[test]
    fn hints_are_kept_and_other_oem_strings_are_not() {
        let line = [
            "-smbios",
            "type=1,uuid=x",
            "-smbios",
            "type=11,value=io.systemd.credential:a=b,value=thruway.dev/gpu:1;id=x",
        ];
        let args = QemuArgs::from_args(&line);
        assert_eq!(args.hints, ["thruway.dev/gpu:1;id=x"]);
        assert!(!format!("{args:?}").contains("credential"));
    }

    #[test]
    fn iommufd_names_a_descriptor_and_no_address() {
        let args = QemuArgs::from_args(&[
            "-object",
            "iommufd,id=iommufd0,fd=22",
            "-device",
            r#"{"driver":"vfio-pci","id":"hostdev0","iommufd":"iommufd0","fd":"24","bus":"pci.2","addr":"0x0"}"#,
            "-device",
            "vfio-pci,host=0000:01:00.1,iommufd=iommufd0",
        ]);
        let found: Vec<_> = args.vfio.iter().map(|one| (one.host, one.iommufd.as_deref(), one.fd.as_deref())).collect();
        let second = Bdf::new(0, 1, 0, 1);
        assert_eq!(found, [(None, Some("iommufd0"), Some("24")), (Some(second), Some("iommufd0"), None)]);
    }

    const CONFIG: &str = "# what -readconfig reads\n[machine]\n  type = \"q35\"\n\n[memory]\n  size = \"8G\"\n\
        [drive \"code\"]\n  if = \"pflash\"\n  file = \"/x,y.fd\"\n[name]\n  guest = \"media\"\n\
        [device \"card\"]\n  driver = \"vfio-pci\"\n  host = \"01:00.0\"\n  multifunction = \"on\"\n\
        [device]\n  driver = \"virtio-balloon-pci\"\n";

    #[test]
    fn a_configuration_file_says_the_same_as_arguments() {
        let mut asked = Vec::new();
        let mut read = |path: &str| {
            asked.push(path.to_owned());
            (path == "/etc/vm.cfg").then(|| CONFIG.to_owned())
        };
        let args = QemuArgs::from_args_with(&["-readconfig", "/etc/vm.cfg", "-readconfig", "gone.cfg"], &mut read);
        assert_eq!(asked, ["/etc/vm.cfg", "gone.cfg"]);
        assert_eq!(args.unread, ["gone.cfg"]);
        let words = "-machine q35 -m 8192 -drive if=pflash,file=/x,,y.fd -name media \
            -device vfio-pci,id=card,host=01:00.0,multifunction=on -device virtio-balloon-pci -readconfig gone.cfg";
        let words: Vec<&str> = words.split_whitespace().collect();
        assert_eq!(args, QemuArgs::from_args(&words));
    }

    proptest! {
        #[test]
        fn facts_are_written_and_read_back(
            name in proptest::option::of("[a-z,=]{1,8}"),
            memory in proptest::option::of(1u64..1 << 40),
            firmware in proptest::option::of("/[a-z,/]{1,9}"),
            addresses in proptest::collection::vec((any::<bool>(), 0u8..32, 0u8..8, proptest::option::of("[a-z0-9.]{1,5}")), 0..4),
            balloon: bool,
            hints in proptest::collection::vec("thruway\\.dev/gpu:[a-z,=;]{0,9}", 0..3),
        ) {
            let vfio = addresses.into_iter().map(|(iommufd, device, function, bus)| VfioDev {
                host: (!iommufd).then(|| Bdf::new(0, 1, device, function)),
                iommufd: iommufd.then(|| "iommufd0".to_owned()),
                fd: iommufd.then(|| "24".to_owned()),
                multifunction: function == 0,
                addr: bus.as_ref().map(|_| format!("0x{device:x}.{function}")),
                bus,
                ..VfioDev::default()
            });
            let facts = QemuArgs {
                name, memory_mib: memory, firmware, balloon, hints, vfio: vfio.collect(),
                machine: Some("pc-q35-7.2".into()), cpu: Some("host".into()), id: Some(100), ..QemuArgs::default()
            };
            prop_assert_eq!(QemuArgs::from_args(&facts.to_args()), facts);
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), config in "\\PC{0,80}") {
            let mut line = b"/usr/bin/kvm\0-readconfig\0x\0-device\0".to_vec();
            line.extend(&bytes);
            prop_assert!(QemuArgs::from_cmdline_with(&line, &mut |_| Some(config.clone())).is_some());
        }

        #[test]
        fn option_strings_never_panic(text in "[a-z,={}\":\\[\\]\n]{0,60}") {
            for option in ["-device", "-drive", "-blockdev", "-m", "-name", "-machine", "-cpu"] {
                let found = QemuArgs::from_args(&[option, text.as_str()]);
                let _ = found.to_args();
            }
            let _ = config::groups(&text);
        }
    }
}
