//! PCI functions as data, and the part of /sys that the kernel makes of them.

use std::collections::BTreeMap;

use model::{Bdf, PciId};
use serde::{Deserialize, Serialize};

/// One PCI function of a box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pci {
    pub bdf: Bdf,
    /// Vendor and device; "0000:0000" where `gone`.
    #[serde(default = "nothing")]
    pub id: PciId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsystem: Option<PciId>,
    /// Six hex digits: class, subclass, programming interface.
    #[serde(default = "no_class")]
    pub class: String,
    /// Two hex digits.
    #[serde(default = "no_revision")]
    pub revision: String,
    /// The driver that holds it; empty: none.
    #[serde(default)]
    pub driver: String,
    /// The driver that the kernel would choose by itself; left out: `driver`, else by vendor and class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_vga: Option<bool>,
    /// "16M", "256M pref 64", "128 io", each with an optional "at 0xe0000000" or "unset".
    #[serde(default)]
    pub bars: Vec<String>,
    /// "5.0x4 8.0x4": GT/s and lanes now, and at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    #[serde(default = "no_node")]
    pub numa: i32,
    /// Text of `reset_method`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<String>,
    /// `driver_override`.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub driver_override: Option<String>,
    #[serde(default)]
    pub bridge: bool,
    /// The bridge that it sits behind; left out: its root bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<Bdf>,
    /// Network interface names of this function.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<String>,
    /// Block devices of this function: "nvme0n1", "nvme0n1p3", "sda".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block: Vec<String>,
    /// "D0" where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_state: Option<String>,
    /// Takes away the function of this address that `extends` gave.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

fn nothing() -> PciId {
    PciId::new(0, 0)
}

fn no_class() -> String {
    "000000".into()
}

fn no_revision() -> String {
    "00".into()
}

fn no_node() -> i32 {
    -1
}

/// A BAR as a box spells it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct BarText {
    size: u64,
    prefetch: bool,
    wide: bool,
    io: bool,
    at: Option<u64>,
    unset: bool,
}

impl Pci {
    /// What is wrong with the values, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.gone {
            return Ok(());
        }
        if self.id == nothing() {
            return Err(format!("{} has no id", self.bdf));
        }
        hex(&self.class, 6).ok_or_else(|| format!("class \"{}\" is not six hex digits", self.class))?;
        hex(&self.revision, 2).ok_or_else(|| format!("revision \"{}\" is not two hex digits", self.revision))?;
        let mut slots = 0;
        for text in &self.bars {
            slots += if bar(text)?.wide { 2 } else { 1 };
        }
        if slots > 6 {
            return Err(format!("{} has {slots} BAR slots; six are all there are", self.bdf));
        }
        self.speeds().map(|_| ())
    }

    pub(crate) fn class_number(&self) -> u64 {
        hex(&self.class, 6).unwrap_or(0)
    }

    /// The driver that the kernel gives it when nobody interferes; empty: none.
    pub(crate) fn native(&self) -> String {
        if let Some(native) = &self.native {
            return native.clone();
        }
        if !self.driver.is_empty() && self.driver != "vfio-pci" {
            return self.driver.clone();
        }
        match (self.id.vendor, self.class_number() >> 8) {
            (PciId::NVIDIA, 0x0300 | 0x0302) => "nouveau",
            (_, 0x0403) => "snd_hda_intel",
            (_, 0x0c03) => "xhci_hcd",
            (_, 0x0106) => "ahci",
            (_, 0x0108) => "nvme",
            (_, 0x0604) => "pcieport",
            _ => "",
        }
        .into()
    }

    /// (GT/s, lanes) now and at most.
    fn speeds(&self) -> Result<Option<[(&str, &str); 2]>, String> {
        let Some(text) = &self.link else { return Ok(None) };
        fn one(word: &str) -> Option<(&str, &str)> {
            let (speed, lanes) = word.split_once('x')?;
            (speed.parse::<f32>().is_ok() && lanes.parse::<u32>().is_ok()).then_some((speed, lanes))
        }
        let speeds: Option<Vec<_>> = text.split_whitespace().map(one).collect();
        match speeds.as_deref() {
            Some([now, max]) => Ok(Some([*now, *max])),
            _ => Err(format!("link \"{text}\" is not like \"5.0x4 8.0x4\"")),
        }
    }
}

fn hex(text: &str, digits: usize) -> Option<u64> {
    (text.len() == digits).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn bar(text: &str) -> Result<BarText, String> {
    let bad = || format!("BAR \"{text}\" is not like \"256M pref 64\"");
    let mut words = text.split_whitespace();
    let size = words.next().ok_or_else(bad)?;
    let (number, unit) = match size.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => (&size[..at], &size[at..]),
        None => (size, ""),
    };
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    let size = number.checked_shl(shift).filter(|size| size.is_power_of_two()).ok_or_else(bad)?;
    let mut bar = BarText { size, prefetch: false, wide: false, io: false, at: None, unset: false };
    while let Some(word) = words.next() {
        match word {
            "pref" => bar.prefetch = true,
            "64" => bar.wide = true,
            "io" => bar.io = true,
            "unset" => bar.unset = true,
            "at" => {
                let at = words.next().and_then(|w| w.strip_prefix("0x")).ok_or_else(bad)?;
                bar.at = Some(u64::from_str_radix(at, 16).map_err(|_| bad())?);
            }
            _ => return Err(bad()),
        }
    }
    Ok(bar)
}

/// Hands out addresses as firmware does: I/O ports, 32-bit memory, 64-bit memory, each aligned to its size.
struct Addresses {
    io: u64,
    low: u64,
    high: u64,
}

impl Addresses {
    fn take(&mut self, bar: &BarText) -> u64 {
        let next = match bar {
            BarText { io: true, .. } => &mut self.io,
            BarText { wide: true, .. } => &mut self.high,
            _ => &mut self.low,
        };
        let start = bar.at.unwrap_or_else(|| next.div_ceil(bar.size) * bar.size);
        if bar.at.is_none() {
            *next = start + bar.size;
        }
        start
    }
}

/// What is to be laid out: paths and texts, links and directories. Pure, so that a boot can lay it out again.
#[derive(Default)]
pub(crate) struct Sys {
    pub files: BTreeMap<String, Vec<u8>>,
    pub links: BTreeMap<String, String>,
    pub dirs: Vec<String>,
    /// Write-only and root-only attributes.
    pub modes: BTreeMap<String, u32>,
    /// BDF → its directory under /sys/devices.
    pub places: BTreeMap<Bdf, String>,
}

impl Sys {
    fn text(&mut self, path: String, text: impl Into<String>) {
        let mut text = text.into();
        text.push('\n');
        self.files.insert(path, text.into_bytes());
    }

    /// `/sys/bus/pci/devices/BDF/x` and `/sys/class/net/NAME/x` as paths that pass no link.
    pub fn place(&self, path: &str) -> String {
        if let Some(rest) = path.strip_prefix("/sys/bus/pci/devices/") {
            let (bdf, attribute) = rest.split_once('/').unwrap_or((rest, ""));
            if let Some(place) = bdf.parse().ok().and_then(|bdf: Bdf| self.places.get(&bdf)) {
                return if attribute.is_empty() { path.into() } else { format!("{place}/{attribute}") };
            }
        }
        for (link, target) in &self.links {
            let child = link.starts_with("/sys/class/") || link.starts_with("/sys/block/");
            let rest = path.strip_prefix(link.as_str()).and_then(|rest| rest.strip_prefix('/'));
            if let Some(rest) = rest.filter(|_| child) {
                return format!("/sys/{}/{rest}", target.trim_start_matches("../"));
            }
        }
        path.into()
    }
}

/// The PCI part of /sys, as the kernel shows it.
pub(crate) fn sys(
    functions: &[Pci],
    group_type: &BTreeMap<String, String>,
    group_reserved: &BTreeMap<String, String>,
) -> Sys {
    let mut sys = Sys::default();
    if functions.is_empty() {
        return sys;
    }
    sys.dirs.extend(["/sys/bus/pci/devices", "/sys/bus/pci/drivers", "/sys/kernel/iommu_groups"].map(String::from));
    sys.text("/sys/bus/pci/drivers_probe".into(), "");
    sys.text("/sys/bus/pci/rescan".into(), "");
    let mut addresses = Addresses { io: 0xe000, low: 0xf000_0000, high: 0x60_0000_0000 };
    for function in functions {
        let place = place(function, functions);
        sys.places.insert(function.bdf, place);
    }
    for (at, function) in functions.iter().enumerate() {
        let Some(place) = sys.places.get(&function.bdf).cloned() else { continue };
        lay_function(&mut sys, function, &place, at, &mut addresses);
        lay_children(&mut sys, function, &place);
        if let Some(group) = function.group {
            lay_group(&mut sys, function, &place, group);
        }
    }
    for group in functions.iter().filter_map(|function| function.group) {
        let (dir, key) = (format!("/sys/kernel/iommu_groups/{group}"), group.to_string());
        let kind = group_type.get(&key).map_or("DMA", |kind| kind.trim());
        sys.text(format!("{dir}/type"), kind);
        let msi = "0x00000000fee00000 0x00000000feefffff msi";
        let reserved = group_reserved.get(&key).map_or(msi, |text| text.trim_end());
        sys.text(format!("{dir}/reserved_regions"), reserved);
    }
    sys
}

/// The directory under /sys/devices, through the bridges above it.
fn place(function: &Pci, all: &[Pci]) -> String {
    let mut path = vec![function.bdf];
    let mut above = function.behind;
    while let Some(bridge) = above.filter(|_| path.len() < 8) {
        path.push(bridge);
        above = all.iter().find(|f| f.bdf == bridge).and_then(|f| f.behind);
    }
    let root = path.last().copied().unwrap_or(function.bdf);
    let mut place = format!("/sys/devices/pci{:04x}:{:02x}", root.domain, root.bus);
    for bdf in path.iter().rev() {
        place.push_str(&format!("/{bdf}"));
    }
    place
}

/// `../` for each directory between `dir` and /sys.
fn up(dir: &str) -> String {
    "../".repeat(dir.split('/').filter(|part| !part.is_empty()).count().saturating_sub(1))
}

fn lay_function(sys: &mut Sys, function: &Pci, place: &str, at: usize, addresses: &mut Addresses) {
    let Pci { id, bdf, .. } = function;
    let class = function.class_number();
    let subsystem = function.subsystem.unwrap_or(nothing());
    let modalias = format!(
        "pci:v{:08X}d{:08X}sv{:08X}sd{:08X}bc{:02X}sc{:02X}i{:02X}",
        id.vendor,
        id.device,
        subsystem.vendor,
        subsystem.device,
        class >> 16,
        class >> 8 & 0xff,
        class & 0xff,
    );
    let mut uevent = String::new();
    if !function.driver.is_empty() {
        uevent.push_str(&format!("DRIVER={}\n", function.driver));
    }
    uevent.push_str(&format!(
        "PCI_CLASS={class:X}\nPCI_ID={:04X}:{:04X}\nPCI_SUBSYS_ID={:04X}:{:04X}\nPCI_SLOT_NAME={bdf}\nMODALIAS={modalias}",
        id.vendor, id.device, subsystem.vendor, subsystem.device,
    ));
    let attributes = [
        ("uevent", uevent),
        ("vendor", format!("0x{:04x}", id.vendor)),
        ("device", format!("0x{:04x}", id.device)),
        ("subsystem_vendor", format!("0x{:04x}", subsystem.vendor)),
        ("subsystem_device", format!("0x{:04x}", subsystem.device)),
        ("class", format!("0x{class:06x}")),
        ("revision", format!("0x{}", function.revision)),
        ("modalias", modalias),
        ("irq", (24 + at).to_string()),
        ("numa_node", function.numa.to_string()),
        ("enable", if function.driver.is_empty() { "0" } else { "1" }.into()),
        ("power_state", function.power_state.clone().unwrap_or_else(|| "D0".into())),
        ("driver_override", function.driver_override.clone().unwrap_or_else(|| "(null)".into())),
        ("resource", resource(function, addresses)),
    ];
    for (name, text) in attributes {
        sys.text(format!("{place}/{name}"), text);
    }
    sys.files.insert(format!("{place}/config"), config(function));
    if let Some(boot) = function.boot_vga {
        sys.text(format!("{place}/boot_vga"), if boot { "1" } else { "0" });
    }
    if let Some(reset) = &function.reset {
        sys.text(format!("{place}/reset_method"), reset.clone());
        sys.text(format!("{place}/reset"), "");
        sys.modes.insert(format!("{place}/reset"), 0o200);
    }
    if let Ok(Some([now, max])) = function.speeds() {
        for (which, (speed, lanes)) in [("current", now), ("max", max)] {
            sys.text(format!("{place}/{which}_link_speed"), format!("{speed} GT/s PCIe"));
            sys.text(format!("{place}/{which}_link_width"), lanes);
        }
    }
    if function.bridge {
        sys.dirs.push(format!("{place}/pci_bus"));
    }
    let up = up(place);
    sys.links.insert(format!("{place}/subsystem"), format!("{up}bus/pci"));
    sys.links.insert(format!("/sys/bus/pci/devices/{bdf}"), format!("../../../{}", place.trim_start_matches("/sys/")));
    if !function.driver.is_empty() {
        let driver = format!("/sys/bus/pci/drivers/{}", function.driver);
        sys.links.insert(format!("{place}/driver"), format!("{up}bus/pci/drivers/{}", function.driver));
        let device = format!("../../../../{}", place.trim_start_matches("/sys/"));
        sys.links.insert(format!("{driver}/{bdf}"), device);
        for attribute in ["bind", "unbind", "new_id", "remove_id"] {
            sys.text(format!("{driver}/{attribute}"), "");
            sys.modes.insert(format!("{driver}/{attribute}"), 0o200);
        }
    }
}

fn lay_group(sys: &mut Sys, function: &Pci, place: &str, group: u32) {
    sys.links.insert(format!("{place}/iommu_group"), format!("{}kernel/iommu_groups/{group}", up(place)));
    let member = format!("/sys/kernel/iommu_groups/{group}/devices/{}", function.bdf);
    sys.links.insert(member, format!("../../../../{}", place.trim_start_matches("/sys/")));
}

/// Network interfaces and disks: what a host loses with their controller.
fn lay_children(sys: &mut Sys, function: &Pci, place: &str) {
    for (at, name) in function.net.iter().enumerate() {
        let dir = format!("{place}/net/{name}");
        sys.text(format!("{dir}/uevent"), format!("INTERFACE={name}\nIFINDEX={}", at + 2));
        sys.text(format!("{dir}/operstate"), "up");
        sys.text(format!("{dir}/carrier"), "1");
        let mac = format!(
            "02:00:{:02x}:{:02x}:{:02x}:{at:02x}",
            function.bdf.bus, function.bdf.device, function.bdf.function
        );
        sys.text(format!("{dir}/address"), mac);
        sys.links.insert(format!("{dir}/device"), format!("../../../{}", function.bdf));
        sys.links.insert(format!("/sys/class/net/{name}"), format!("../../{}", dir.trim_start_matches("/sys/")));
    }
    let controller = if function.class.starts_with("0108") { "nvme/nvme0" } else { "host0/target0:0:0/0:0:0:0/block" };
    for name in &function.block {
        let disk = function.block.iter().find(|disk| *disk != name && name.starts_with(disk.as_str()));
        let dir = match disk {
            Some(disk) => format!("{place}/{controller}/{disk}/{name}"),
            None => format!("{place}/{controller}/{name}"),
        };
        sys.text(
            format!("{dir}/uevent"),
            format!("DEVNAME={name}\nDEVTYPE={}", if disk.is_some() { "partition" } else { "disk" }),
        );
        if disk.is_some() {
            sys.text(format!("{dir}/partition"), "1");
        } else {
            sys.links.insert(format!("/sys/block/{name}"), format!("../{}", dir.trim_start_matches("/sys/")));
        }
        sys.links.insert(format!("/sys/class/block/{name}"), format!("../../{}", dir.trim_start_matches("/sys/")));
    }
}

/// `resource`: thirteen lines of start, end and flags (six BARs, the ROM, six for virtual functions).
fn resource(function: &Pci, addresses: &mut Addresses) -> String {
    let mut lines = vec!["0x0000000000000000 0x0000000000000000 0x0000000000000000".to_owned(); 13];
    let mut slot = 0;
    for bar in function.bars.iter().filter_map(|text| bar(text).ok()) {
        let mut flags = match bar {
            BarText { io: true, .. } => 0x4_0101,
            BarText { wide: true, .. } => 0x14_0204,
            _ => 0x4_0200_u64,
        };
        if bar.prefetch {
            flags |= 0x2008;
        }
        let start = if bar.unset { 0 } else { addresses.take(&bar) };
        if bar.unset {
            flags |= 0x2000_0000;
        }
        if let Some(line) = lines.get_mut(slot) {
            *line = format!("0x{start:016x} 0x{:016x} 0x{flags:016x}", start + bar.size - 1);
        }
        slot += if bar.wide { 2 } else { 1 };
    }
    lines.join("\n")
}

/// The first 64 bytes of configuration space: identity, class, header type.
fn config(function: &Pci) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(function.id.vendor.to_le_bytes());
    bytes.extend(function.id.device.to_le_bytes());
    bytes.extend(if function.driver.is_empty() { [0, 0] } else { [7, 4] });
    bytes.extend([0x10, 0]);
    bytes.push(hex(&function.revision, 2).unwrap_or(0) as u8);
    bytes.extend(function.class_number().to_le_bytes().iter().take(3));
    bytes.extend([
        16,
        0,
        if function.bridge {
            1
        } else if function.bdf.function == 0 {
            0
        } else {
            0x80
        },
        0,
    ]);
    bytes.resize(44, 0);
    let subsystem = function.subsystem.unwrap_or(nothing());
    bytes.extend(subsystem.vendor.to_le_bytes());
    bytes.extend(subsystem.device.to_le_bytes());
    bytes.resize(64, 0);
    bytes
}
