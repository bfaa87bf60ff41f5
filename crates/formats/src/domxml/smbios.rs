//! OEM strings of a libvirt domain: `<sysinfo type='smbios'><oemStrings><entry>`, with `<os><smbios mode='sysinfo'/>`.
//!
//! libvirt refuses the mode without the block, and passes the block only with the mode. Source: libvirt's formatdomain,
//! SMBIOS System Information and Operating system booting.

use super::{Domain, Element, cut, indent_at, number, tree};

/// Why a domain cannot be given OEM strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// `<smbios mode='host'/>`: the guest has a copy of the host's tables, and libvirt takes nothing beside it.
    #[error("it gives its guest the host's own SMBIOS (<smbios mode='host'/>), and nothing can stand beside that")]
    HostTables,
    /// No `<os>` with an end tag: libvirt writes no such domain.
    #[error("it has no <os> that the SMBIOS mode could stand in")]
    NoOs,
}

impl Domain {
    /// The OEM strings that begin with `prefix`, in the text's order.
    pub fn oem_strings(&self, prefix: &str) -> Vec<String> {
        let root = self.root();
        let entries = root.iter().flat_map(|root| &root.children).filter(|one| is_smbios(one));
        let entries = entries.flat_map(|one| &one.children).filter(|one| one.name == "oemStrings");
        let texts = entries.flat_map(|strings| &strings.children).map(|entry| entry.text.trim());
        texts.filter(|text| text.starts_with(prefix)).map(str::to_owned).collect()
    }

    /// The text with these OEM strings in place of those that begin with `prefix`. Other entries, other sysinfo and
    /// every other byte stay; what is empty afterwards goes, and with the last of it the SMBIOS mode. The strings must
    /// need no escaping in XML.
    pub fn with_oem_strings(&self, prefix: &str, strings: &[String]) -> Result<String, NoRoom> {
        if self.oem_strings(prefix) == strings {
            return Ok(self.text.clone());
        }
        let bare = self.without_oem_strings(prefix);
        if strings.is_empty() {
            return Ok(bare);
        }
        put(&bare, strings)
    }

    /// The root port that has this index: its slot and function on the guest's bus 0. None: no such port, or libvirt
    /// has not given it an address yet.
    pub fn port_at(&self, index: u32) -> Option<(u32, u32)> {
        let all = self.devices.iter().flat_map(|devices| &devices.children);
        let port = all.filter(|one| one.name == "controller").find(|one| {
            one.attribute("type") == Some("pci") && one.attribute("index").and_then(number) == Some(index)
        })?;
        let address = port.child("address").filter(|address| address.attribute("type") == Some("pci"))?;
        let part = |name: &str| address.attribute(name).and_then(number);
        (part("bus")? == 0).then(|| Some((part("slot")?, part("function").unwrap_or(0))))?
    }

    fn root(&self) -> Option<Element> {
        root_of(&self.text)
    }

    fn without_oem_strings(&self, prefix: &str) -> String {
        let Some(root) = self.root() else { return self.text.clone() };
        let ours = |entry: &Element| entry.name == "entry" && entry.text.trim().starts_with(prefix);
        let mut spans = Vec::new();
        let mut emptied = 0;
        let blocks: Vec<&Element> = root.children.iter().filter(|one| is_smbios(one)).collect();
        for block in &blocks {
            let mut all_go = !block.children.is_empty();
            let mut inside = Vec::new();
            for child in &block.children {
                let gone: Vec<_> = child.children.iter().filter(|entry| ours(entry)).collect();
                if child.name != "oemStrings" || gone.is_empty() {
                    all_go = false;
                } else if gone.len() == child.children.len() {
                    inside.push(child.span.clone());
                } else {
                    all_go = false;
                    inside.extend(gone.iter().map(|entry| entry.span.clone()));
                }
            }
            if all_go {
                emptied += 1;
                spans.push(block.span.clone());
            } else {
                spans.extend(inside);
            }
        }
        let mode = root.at(&["os", "smbios"]).filter(|mode| mode.attribute("mode") == Some("sysinfo"));
        if emptied > 0 && emptied == blocks.len() {
            spans.extend(mode.map(|mode| mode.span.clone()));
        }
        spans.sort_by_key(|span| span.start);
        cut(&self.text, spans)
    }
}

fn root_of(text: &str) -> Option<Element> {
    tree(text).ok()?.into_iter().find_map(|element| match element.name.as_str() {
        "domain" => Some(element),
        "domstatus" => element.children.into_iter().find(|child| child.name == "domain"),
        _ => None,
    })
}

fn is_smbios(element: &Element) -> bool {
    element.name == "sysinfo" && element.attribute("type") == Some("smbios")
}

/// Puts strings into a text that has none of ours: the mode first if it stands behind, so that places stay true.
fn put(text: &str, strings: &[String]) -> Result<String, NoRoom> {
    let root = root_of(text).ok_or(NoRoom::NoOs)?;
    let os = root.child("os").filter(|os| os.inner_end < os.span.end).ok_or(NoRoom::NoOs)?;
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let outer = indent_at(text, os.span.start).to_owned();
    let step = if outer.is_empty() { "  ".to_owned() } else { outer.clone() };
    let mut edits: Vec<(std::ops::Range<usize>, String)> = Vec::new();
    match os.child("smbios") {
        Some(mode) if mode.attribute("mode") == Some("host") => return Err(NoRoom::HostTables),
        Some(mode) if mode.attribute("mode") == Some("sysinfo") => {}
        Some(mode) => edits.push((mode.span.clone(), "<smbios mode='sysinfo'/>".into())),
        None => {
            let last = os.children.last();
            let at = last.map_or(os.inner_start, |child| child.span.end);
            let indent = last.map_or(format!("{outer}{step}"), |child| indent_at(text, child.span.start).to_owned());
            edits.push((at..at, format!("{newline}{indent}<smbios mode='sysinfo'/>")));
        }
    }
    let entries = |indent: &str| -> String {
        strings.iter().map(|string| format!("{newline}{indent}<entry>{string}</entry>")).collect()
    };
    let block = root.children.iter().find(|one| is_smbios(one) && one.inner_end < one.span.end);
    let list = block.and_then(|block| block.child("oemStrings")).filter(|list| list.inner_end < list.span.end);
    let behind = |parent: &Element| parent.children.last().map_or(parent.inner_start, |child| child.span.end);
    match (block, list) {
        (_, Some(list)) => {
            let indent = list.children.last().map_or(format!("{}{step}", indent_at(text, list.span.start)), |entry| {
                indent_at(text, entry.span.start).to_owned()
            });
            edits.push((behind(list)..behind(list), entries(&indent)));
        }
        (Some(block), None) => {
            let indent = format!("{}{step}", indent_at(text, block.span.start));
            let inner = format!("{indent}{step}");
            let lines = format!("{newline}{indent}<oemStrings>{}{newline}{indent}</oemStrings>", entries(&inner));
            edits.push((behind(block)..behind(block), lines));
        }
        (None, _) => {
            let (one, two) = (format!("{outer}{step}"), format!("{outer}{step}{step}"));
            let lines = format!(
                "{newline}{outer}<sysinfo type='smbios'>{newline}{one}<oemStrings>{}{newline}{one}</oemStrings>{newline}{outer}</sysinfo>",
                entries(&two)
            );
            // before <os>, where libvirt writes it
            let before = root.children.iter().take_while(|child| child.span.start < os.span.start).last();
            let at = before.map_or(root.inner_start, |child| child.span.end);
            edits.push((at..at, lines));
        }
    }
    edits.sort_by_key(|(span, _)| span.start);
    let mut text = text.to_owned();
    for (span, new) in edits.into_iter().rev() {
        text.replace_range(span, &new);
    }
    Ok(text)
}
