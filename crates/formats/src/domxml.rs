//! A libvirt domain's XML: what it gives its guest, and splices that leave every other byte as it was.
//!
//! Read: name, uuid, memory, os (machine, firmware, its features, loader), features/kvm/hidden, cpu mode, memballoon,
//! PCI controllers, and `<hostdev>` with source and guest address. Source: libvirt's domain XML format.

mod smbios;

use std::ops::Range;

use model::Bdf;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

pub use crate::pveconf::BadConf;
pub use smbios::NoRoom;

/// Elements deeper than this are no domain that libvirt wrote.
const DEPTH: usize = 64;

/// One element, with where it stands in the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
    /// The whole element, from `<` to the last `>`.
    span: Range<usize>,
    /// Where the start tag ends.
    inner_start: usize,
    /// Where the end tag begins; the span's end for `<x/>`.
    inner_end: usize,
}

/// A domain. `text` gives back the bytes that were read; edits give new bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    text: String,
    pub name: String,
    pub uuid: Option<String>,
    /// "hvm"'s machine: "pc-q35-6.2", "pc-i440fx-focal".
    pub machine: Option<String>,
    /// `<os firmware='efi'>`.
    pub firmware: Option<String>,
    /// `<loader>`: type ("pflash", "rom"), secure, and the file.
    pub loader: Option<Loader>,
    /// `<nvram>`: the file of the guest's variables, and the template that it is first made of.
    pub nvram: (Option<String>, Option<String>),
    /// `<firmware><feature name='secure-boot' enabled='…'/>`.
    pub secure_boot: Option<bool>,
    /// `<firmware><feature name='enrolled-keys' enabled='…'/>`.
    pub enrolled_keys: Option<bool>,
    /// MiB, rounded up.
    pub memory_mib: Option<u64>,
    /// `<cpu mode='…'>`: "host-passthrough", "host-model", "custom".
    pub cpu_mode: Option<String>,
    /// `<cpu><model>`.
    pub cpu_model: Option<String>,
    pub kvm_hidden: bool,
    /// `<memballoon model='…'>`.
    pub balloon: Option<String>,
    /// `<memtune><hard_limit>`, MiB, rounded down: what QEMU may lock where it is set.
    pub hard_limit_mib: Option<u64>,
    /// `<memoryBacking><hugepages>`: the size in KiB of its first page, 0 where none is named (the host's default).
    pub hugepages_kib: Option<u64>,
    /// `<numatune><memory nodeset='…'>`.
    pub nodeset: Option<String>,
    /// `<cpu><maxphysaddr limit='…'>`, or its `bits` with mode='emulate'.
    pub phys_bits: Option<u32>,
    /// `<iommu model='…'>` among the devices.
    pub viommu: Option<String>,
    pub hostdevs: Vec<HostDev>,
    /// `<controller type='pci'>`: index and model.
    pub pci: Vec<(u32, String)>,
    /// Guest addresses that devices hold: (bus, slot).
    pub used: Vec<(u32, u32)>,
    devices: Option<Element>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loader {
    pub kind: Option<String>,
    pub secure: bool,
    pub path: String,
}

/// One `<hostdev type='pci'>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDev {
    pub source: Bdf,
    /// libvirt itself takes the function from its host driver and gives it back.
    pub managed: bool,
    /// bus, slot, function in the guest.
    pub guest: Option<(u32, u32, u32)>,
    pub multifunction: bool,
    /// `<rom file='…'>`.
    pub romfile: Option<String>,
    /// 1-based.
    pub line: u32,
    span: Range<usize>,
}

/// A function to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewHostDev {
    pub source: Bdf,
    /// bus, slot, function in the guest; none: libvirt chooses.
    pub guest: Option<(u32, u32, u32)>,
    /// Needed on function 0 where more functions share its slot.
    pub multifunction: bool,
}

impl Domain {
    /// Reads a domain. An error says the line: bytes that are no UTF-8, XML that does not close, no `<domain>`.
    pub fn parse(bytes: &[u8]) -> Result<Domain, BadConf> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            bad(&String::from_utf8_lossy(before), before.len(), "bytes that are no UTF-8")
        })?;
        let roots = tree(text)?;
        let root = roots
            .into_iter()
            .find_map(|element| match element.name.as_str() {
                "domain" => Some(element),
                // /run/libvirt/qemu wraps the domain in its state
                "domstatus" => element.children.into_iter().find(|child| child.name == "domain"),
                _ => None,
            })
            .ok_or_else(|| bad(text, 0, "there is no <domain>"))?;
        Ok(Domain::from_root(text, root))
    }

    fn from_root(text: &str, root: Element) -> Domain {
        let words = |path: &[&str]| root.at(path).map(|element| element.text.trim().to_owned());
        let os = root.child("os");
        let feature = |name: &str| {
            let features = os.and_then(|os| os.child("firmware")).map(|firmware| &firmware.children);
            let feature = features.into_iter().flatten().find(|one| one.attribute("name") == Some(name));
            feature.and_then(|one| one.attribute("enabled")).map(|enabled| enabled == "yes")
        };
        let devices = root.child("devices").cloned();
        let all = devices.iter().flat_map(|devices| &devices.children);
        let guest = |element: &Element| {
            let address = element.child("address").filter(|address| address.attribute("type") == Some("pci"))?;
            let part = |name: &str| address.attribute(name).and_then(number);
            Some((
                part("bus")?,
                part("slot")?,
                part("function").unwrap_or(0),
                address.attribute("multifunction") == Some("on"),
            ))
        };
        let hostdevs = all.clone().filter(|one| one.name == "hostdev" && one.attribute("type") == Some("pci"));
        let hostdevs = hostdevs.filter_map(|one| {
            let source = one.child("source")?.child("address")?;
            let part = |name: &str| source.attribute(name).and_then(number);
            let bus = u8::try_from(part("bus")?).ok()?;
            let device = u8::try_from(part("slot")?).ok().filter(|device| *device < 32)?;
            let function = u8::try_from(part("function").unwrap_or(0)).ok().filter(|function| *function < 8)?;
            let at = guest(one);
            Some(HostDev {
                source: Bdf::new(part("domain").unwrap_or(0), bus, device, function),
                managed: one.attribute("managed") == Some("yes"),
                guest: at.map(|(bus, slot, function, _)| (bus, slot, function)),
                multifunction: at.is_some_and(|(_, _, _, multi)| multi),
                romfile: one.child("rom").and_then(|rom| rom.attribute("file")).map(str::to_owned),
                line: line_at(text, one.span.start),
                span: one.span.clone(),
            })
        });
        let hostdevs = hostdevs.collect();
        let controllers = all.clone().filter(|one| one.name == "controller" && one.attribute("type") == Some("pci"));
        let pci = controllers
            .filter_map(|one| Some((one.attribute("index").and_then(number)?, one.attribute("model")?.to_owned())));
        let pci = pci.collect();
        let used = all.clone().filter_map(|one| guest(one).map(|(bus, slot, _, _)| (bus, slot))).collect();
        let balloon = all.clone().find(|one| one.name == "memballoon").and_then(|one| one.attribute("model"));
        let balloon = balloon.map(str::to_owned);
        let amount = |element: &Element| {
            let amount: u64 = element.text.trim().parse().ok()?;
            bytes_of(amount, element.attribute("unit").unwrap_or("KiB"))
        };
        let memory = root.child("memory").and_then(amount).map(|bytes| bytes.div_ceil(1 << 20));
        let pages = root.at(&["memoryBacking", "hugepages"]).map(|pages| {
            let page = pages.child("page");
            let size = page.and_then(|page| page.attribute("size")?.parse().ok());
            let unit = page.and_then(|page| page.attribute("unit")).unwrap_or("KiB");
            size.and_then(|size| bytes_of(size, unit)).map_or(0, |bytes| bytes >> 10)
        });
        let bits = root.at(&["cpu", "maxphysaddr"]);
        let bits = bits.and_then(|bits| bits.attribute("limit").or(bits.attribute("bits"))).and_then(number);
        let viommu = all.clone().find(|one| one.name == "iommu").and_then(|one| one.attribute("model"));
        let viommu = viommu.map(str::to_owned);
        let cpu = root.child("cpu");
        Domain {
            text: text.to_owned(),
            name: words(&["name"]).unwrap_or_default(),
            uuid: words(&["uuid"]),
            machine: root.at(&["os", "type"]).and_then(|kind| kind.attribute("machine")).map(str::to_owned),
            firmware: os.and_then(|os| os.attribute("firmware")).map(str::to_owned),
            loader: os.and_then(|os| os.child("loader")).map(|loader| Loader {
                kind: loader.attribute("type").map(str::to_owned),
                secure: loader.attribute("secure") == Some("yes"),
                path: loader.text.trim().to_owned(),
            }),
            nvram: os.and_then(|os| os.child("nvram")).map_or((None, None), |nvram| {
                let file = Some(nvram.text.trim()).filter(|file| !file.is_empty());
                (
                    file.or(nvram.at(&["source"]).and_then(|source| source.attribute("file"))).map(str::to_owned),
                    nvram.attribute("template").map(str::to_owned),
                )
            }),
            secure_boot: feature("secure-boot"),
            enrolled_keys: feature("enrolled-keys"),
            memory_mib: memory,
            cpu_mode: cpu.and_then(|cpu| cpu.attribute("mode")).map(str::to_owned),
            cpu_model: words(&["cpu", "model"]),
            kvm_hidden: root.at(&["features", "kvm", "hidden"]).and_then(|one| one.attribute("state")) == Some("on"),
            balloon,
            hard_limit_mib: root.at(&["memtune", "hard_limit"]).and_then(amount).map(|bytes| bytes >> 20),
            hugepages_kib: pages,
            nodeset: root.at(&["numatune", "memory"]).and_then(|one| one.attribute("nodeset")).map(str::to_owned),
            phys_bits: bits,
            viommu,
            hostdevs,
            pci,
            used,
            devices,
        }
    }

    /// The bytes that were read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line of the first tag with this very name; 1-based. `memory` is not `memoryBacking`.
    pub fn line_of(&self, tag: &str) -> Option<u32> {
        let whole = |at: usize| {
            let rest = self.text.get(at + 1 + tag.len()..).unwrap_or_default();
            rest.starts_with(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/')
        };
        let open = format!("<{tag}");
        let at = self.text.match_indices(&open).map(|(at, _)| at).find(|at| whole(*at))?;
        Some(line_at(&self.text, at))
    }

    /// UEFI: by `firmware='efi'` or a pflash loader.
    pub fn is_uefi(&self) -> bool {
        self.firmware.as_deref() == Some("efi")
            || self.loader.as_ref().is_some_and(|loader| loader.kind.as_deref() == Some("pflash"))
    }

    /// True for the machine type q35 in any version.
    pub fn is_q35(&self) -> bool {
        self.machine.as_deref().is_some_and(|machine| machine.contains("q35"))
    }

    /// A root port on which no device stands: its index is the bus number of what is plugged into it.
    pub fn free_port(&self) -> Option<u32> {
        let ports = self.pci.iter().filter(|(_, model)| model == "pcie-root-port").map(|(index, _)| *index);
        ports.filter(|index| !self.used.iter().any(|(bus, _)| bus == index)).min()
    }

    /// An index that no PCI controller has.
    pub fn next_index(&self) -> u32 {
        self.pci.iter().map(|(index, _)| index.saturating_add(1)).max().unwrap_or(1)
    }

    /// The text with these elements put behind the last `<hostdev>`, else at the end of `<devices>`. `port`: a root
    /// port of this index is added before them. None where there is no `<devices>`.
    pub fn with(&self, port: Option<u32>, new: &[NewHostDev]) -> Option<String> {
        let devices = self.devices.as_ref()?;
        let newline = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let indent = devices.children.first().map_or("    ", |child| indent_at(&self.text, child.span.start));
        let step = "  ";
        let mut lines: Vec<String> = Vec::new();
        if let Some(index) = port {
            lines.push(format!("{indent}<controller type='pci' index='{index}' model='pcie-root-port'/>"));
        }
        for one in new {
            let Bdf { domain, bus, device, function } = one.source;
            lines.push(format!("{indent}<hostdev mode='subsystem' type='pci' managed='yes'>"));
            lines.push(format!("{indent}{step}<source>"));
            lines.push(format!(
                "{indent}{step}{step}<address domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{device:02x}' function='0x{function:x}'/>"
            ));
            lines.push(format!("{indent}{step}</source>"));
            if let Some((bus, slot, function)) = one.guest {
                let multi = if one.multifunction { " multifunction='on'" } else { "" };
                lines.push(format!(
                    "{indent}{step}<address type='pci' domain='0x0000' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function:x}'{multi}/>"
                ));
            }
            lines.push(format!("{indent}</hostdev>"));
        }
        let last = devices.children.iter().rev().find(|child| child.name == "hostdev").or(devices.children.last());
        let mut text = self.text.clone();
        match last {
            Some(child) => {
                let added: String = lines.iter().map(|line| format!("{newline}{line}")).collect();
                text.insert_str(child.span.end, &added);
            }
            None if devices.inner_end < devices.span.end => {
                // as behind a first child, so that `without` takes the same bytes out again
                let added: String = lines.iter().map(|line| format!("{newline}{line}")).collect();
                text.insert_str(devices.inner_start, &added);
            }
            // <devices/> : a domain without any device; libvirt writes no such thing
            None => return None,
        }
        Some(text)
    }

    /// The text without the hostdevs of these functions, and without their lines.
    pub fn without(&self, sources: &[Bdf]) -> String {
        let gone = self.hostdevs.iter().filter(|one| sources.contains(&one.source));
        cut(&self.text, gone.map(|one| one.span.clone()).collect())
    }

    /// The text without the root port of this index, and without its line: what takes back `with`'s port. Unchanged
    /// where a device stands on the port, or where there is none.
    pub fn without_port(&self, index: u32) -> String {
        let all = self.devices.iter().flat_map(|devices| &devices.children);
        let port = all.filter(|one| {
            one.name == "controller"
                && one.attribute("model") == Some("pcie-root-port")
                && one.attribute("index").and_then(number) == Some(index)
        });
        let free = !self.used.iter().any(|(bus, _)| *bus == index);
        cut(&self.text, port.filter(|_| free).map(|one| one.span.clone()).collect())
    }
}

/// The text without these spans, which stand in the text's order, each with the line end and indent before it.
fn cut(text: &str, spans: Vec<Range<usize>>) -> String {
    let mut text = text.to_owned();
    for span in spans.into_iter().rev() {
        let indent = indent_at(&text, span.start).len();
        let mut from = span.start.saturating_sub(indent);
        let before = text.get(..from).unwrap_or_default();
        let line_end = if before.ends_with("\r\n") { 2 } else { usize::from(before.ends_with('\n')) };
        from = from.saturating_sub(line_end);
        text.replace_range(from..span.end, "");
    }
    text
}

impl Element {
    fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The elements of a text, with their spans. Iterative: hostile nesting costs an error and no stack.
fn tree(text: &str) -> Result<Vec<Element>, BadConf> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut roots: Vec<Element> = Vec::new();
    loop {
        let at = position(reader.buffer_position(), text);
        let event = reader
            .read_event()
            .map_err(|error| bad(text, position(reader.error_position(), text), &error.to_string()))?;
        let end = position(reader.buffer_position(), text);
        match event {
            Event::Start(tag) => {
                if open.len() == DEPTH {
                    return Err(bad(text, at, "elements are nested too deeply"));
                }
                open.push(element(&tag, at..end, text)?);
            }
            Event::Empty(tag) => {
                let one = element(&tag, at..end, text)?;
                open.last_mut().map_or(&mut roots, |parent| &mut parent.children).push(one);
            }
            Event::End(_) => {
                let Some(mut one) = open.pop() else { return Err(bad(text, at, "an end tag without its start")) };
                one.inner_end = at;
                one.span.end = end;
                open.last_mut().map_or(&mut roots, |parent| &mut parent.children).push(one);
            }
            Event::Text(words) => {
                if let Some(parent) = open.last_mut() {
                    parent.text.push_str(&words.xml10_content());
                }
            }
            Event::GeneralRef(name) => {
                let known = match &*name.xml10_content() {
                    "amp" => '&',
                    "lt" => '<',
                    "gt" => '>',
                    "quot" => '"',
                    "apos" => '\'',
                    other => numeric(other).unwrap_or('\u{fffd}'),
                };
                if let Some(parent) = open.last_mut() {
                    parent.text.push(known);
                }
            }
            Event::CData(words) => {
                if let Some(parent) = open.last_mut() {
                    parent.text.push_str(&words.xml10_content());
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match open.pop() {
        Some(one) => Err(bad(text, one.span.start, &format!("<{}> is not closed", clip(&one.name)))),
        None => Ok(roots),
    }
}

fn element(tag: &BytesStart<'_>, span: Range<usize>, text: &str) -> Result<Element, BadConf> {
    let mut attributes = Vec::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| bad(text, span.start, &error.to_string()))?;
        let value = attribute
            .normalized_value(quick_xml::XmlVersion::Implicit1_0)
            .map_err(|error| bad(text, span.start, &error.to_string()))?;
        attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
    }
    let inner = span.end;
    let name = tag.name().as_ref().to_owned();
    Ok(Element { name, attributes, span, inner_start: inner, inner_end: inner, ..Element::default() })
}

fn position(at: u64, text: &str) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX).min(text.len())
}

fn bad(text: &str, at: usize, message: &str) -> BadConf {
    BadConf { line: line_at(text, at), message: clip(message) }
}

fn clip(text: &str) -> String {
    text.chars().take(160).collect()
}

fn line_at(text: &str, at: usize) -> u32 {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    let ends = before.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(ends).unwrap_or(u32::MAX).saturating_add(1)
}

/// The blanks between the line's start and `at`; empty where anything else stands there.
fn indent_at(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or_default();
    let line = before.rfind('\n').map_or(before, |end| before.get(end + 1..).unwrap_or_default());
    if line.bytes().all(|byte| byte == b' ' || byte == b'\t') { line } else { "" }
}

/// `#233` and `#xe9` of a character reference.
fn numeric(reference: &str) -> Option<char> {
    let digits = reference.strip_prefix('#')?;
    let code = match digits.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    char::from_u32(code)
}

/// Decimal, or hex with `0x`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn bytes_of(amount: u64, unit: &str) -> Option<u64> {
    let factor: u64 = match unit {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    amount.checked_mul(factor)
}
