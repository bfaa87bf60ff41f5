//! `-q`: one tree of what is shown, printed as indented words or as XML.

use std::fmt::Write as _;

use machine::nvml::NvmlGpu;

use super::{Smi, na, sections};

/// One line, or one with lines below it. A name that is empty is not shown in that form.
pub(super) enum Item {
    Leaf {
        text: &'static str,
        xml: &'static str,
        value: String,
    },
    Group {
        text: &'static str,
        xml: &'static str,
        items: Vec<Item>,
    },
    /// An element whose content the tool does not indent; XML alone.
    Level {
        xml: &'static str,
        items: Vec<Item>,
    },
    /// Words that stand alone in an element: "None".
    Word(&'static str),
}

pub(super) fn leaf(text: &'static str, xml: &'static str, value: String) -> Item {
    Item::Leaf { text, xml, value }
}

pub(super) fn group(text: &'static str, xml: &'static str, items: Vec<Item>) -> Item {
    Item::Group { text, xml, items }
}

/// How far names are padded: the colon's column.
fn column(branch: u32) -> usize {
    if branch >= 570 { 55 } else { 42 }
}

pub(super) fn text(smi: &Smi<'_>) -> String {
    let column = column(smi.branch());
    let mut out = String::from("\n==============NVSMI LOG==============\n\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<column$}: {value}");
    };
    line("Timestamp", smi.time);
    line("Driver Version", &na(&smi.report.driver_version));
    let cuda = na(&smi.report.cuda_version.as_ref().map(|(major, minor)| format!("{major}.{minor}")));
    line("CUDA Version", &cuda);
    out.push('\n');
    let _ = writeln!(out, "{:<column$}: {}", "Attached GPUs", smi.report.gpus.len());
    for gpu in smi.gpus() {
        let _ = writeln!(out, "GPU {}", address(gpu));
        words(&mut out, &sections::all(smi, gpu), 1, column);
        out.push('\n');
    }
    out
}

fn address(gpu: &NvmlGpu) -> String {
    na(&gpu.bus_id)
}

fn words(out: &mut String, items: &[Item], depth: usize, column: usize) {
    for item in items {
        let indent = depth * 4;
        match item {
            Item::Leaf { text: "", .. } | Item::Group { text: "", .. } | Item::Word(_) | Item::Level { .. } => {}
            Item::Leaf { text, value, .. } => {
                let width = column.saturating_sub(indent);
                let _ = writeln!(out, "{:indent$}{text:<width$}: {value}", "");
            }
            // some of the tool's own names end in spaces
            Item::Group { text, items, .. } => {
                let _ = writeln!(out, "{:indent$}{text}", "");
                words(out, items, depth + 1, column);
            }
        }
    }
}

pub(super) fn xml(smi: &Smi<'_>) -> String {
    let dtd = match smi.branch() {
        0..530 => "v11",
        530..560 => "v12",
        _ => "v13",
    };
    let mut out = String::from("<?xml version=\"1.0\" ?>\n");
    let _ = writeln!(out, "<!DOCTYPE nvidia_smi_log SYSTEM \"nvsmi_device_{dtd}.dtd\">\n<nvidia_smi_log>");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "\t<{name}>{}</{name}>", escaped(value));
    };
    let driver = na(&smi.report.driver_version);
    let cuda = na(&smi.report.cuda_version.as_ref().map(|(major, minor)| format!("{major}.{minor}")));
    line("timestamp", smi.time);
    line("driver_version", &driver);
    line("cuda_version", &cuda);
    if smi.branch() >= 610 {
        line("kmd_version", &driver);
        line("cuda_umd_version", &cuda);
    }
    line("attached_gpus", &smi.report.gpus.len().to_string());
    for gpu in smi.gpus() {
        let _ = writeln!(out, "\t<gpu id=\"{}\">", escaped(&address(gpu)));
        elements(&mut out, &sections::all(smi, gpu), 2);
        out.push_str("\t</gpu>\n\n");
    }
    out.push_str("</nvidia_smi_log>\n");
    out
}

fn elements(out: &mut String, items: &[Item], depth: usize) {
    let tabs = "\t".repeat(depth);
    for item in items {
        match item {
            Item::Leaf { xml: "", .. } | Item::Group { xml: "", .. } => {}
            Item::Leaf { xml, value, .. } => {
                let _ = writeln!(out, "{tabs}<{xml}>{}</{xml}>", escaped(value));
            }
            Item::Group { xml, items, .. } => {
                let _ = writeln!(out, "{tabs}<{xml}>");
                elements(out, items, depth + 1);
                let _ = writeln!(out, "{tabs}</{xml}>");
            }
            Item::Level { xml, items } => {
                let _ = writeln!(out, "{tabs}<{xml}>");
                elements(out, items, depth);
                let _ = writeln!(out, "{tabs}</{xml}>");
            }
            Item::Word(word) => {
                let _ = writeln!(out, "{tabs}{word}");
            }
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
