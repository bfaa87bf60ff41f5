//! `nvidia-smi -q -x`: a saved XML report of the driver's own tool, so that field notes can stand in for NVML.
//!
//! The elements differ between driver versions; a value is found by its path, and a path that is not there is simply
//! not there. Form: `<nvidia_smi_log>` with `<driver_version>`, `<cuda_version>` and one `<gpu id="…">` per GPU.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::Event;

/// A report's values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmiLog {
    /// Values outside any GPU, by name: "driver_version" → "580.159.04".
    pub values: BTreeMap<String, String>,
    pub gpus: Vec<SmiGpu>,
}

/// One `<gpu>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmiGpu {
    /// The `id` attribute: "00000000:01:00.0".
    pub id: String,
    /// Values by path below `<gpu>`: "fb_memory_usage/total" → "81559 MiB". Of repeated ones the first.
    pub values: BTreeMap<String, String>,
    /// Each `<process_info>`: "pid", "type", "process_name", "used_memory".
    pub processes: Vec<BTreeMap<String, String>>,
    /// Each `<mig_device>`'s values by path below it: "fb_memory_usage/total".
    pub mig: Vec<BTreeMap<String, String>>,
    /// Each supported memory clock with its graphics clocks: "2619 MHz".
    pub clocks: Vec<(String, Vec<String>)>,
}

/// Why a text is no such report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct SmiError {
    /// From 1.
    pub line: u32,
    pub what: String,
}

/// Deeper than any report; a text that nests deeper is not one.
const DEPTH: usize = 32;
const GPUS: usize = 256;
/// MIG devices of one GPU, and clocks of one list: more than any card has.
const MIG: usize = 64;
const CLOCKS: usize = 1024;

pub fn parse(text: &str) -> Result<SmiLog, SmiError> {
    let mut reader = Reader::from_str(text);
    let mut log = SmiLog::default();
    // Names from the root element on; the root itself is not part of a path.
    let mut path: Vec<String> = Vec::new();
    let mut value = String::new();
    let mut rooted = false;
    loop {
        let event = reader.read_event();
        let at = |what: String| {
            let before = text.as_bytes().get(..reader.buffer_position() as usize).unwrap_or_default();
            SmiError { line: before.iter().filter(|byte| **byte == b'\n').count() as u32 + 1, what }
        };
        match event.map_err(|error| at(error.to_string()))? {
            Event::Start(start) => {
                let name = start.name().as_ref().to_owned();
                if path.is_empty() && name != "nvidia_smi_log" {
                    return Err(at(format!("the report is <{}>, not <nvidia_smi_log>", clip(&name))));
                }
                rooted = true;
                if path.len() >= DEPTH {
                    return Err(at(format!("elements nest deeper than {DEPTH}")));
                }
                if path.len() == 1 && name == "gpu" {
                    if log.gpus.len() >= GPUS {
                        return Err(at(format!("more than {GPUS} GPUs")));
                    }
                    let id = start.attributes().flatten().find(|attribute| attribute.key.as_ref() == "id");
                    let id = id.map(|id| id.value.into_owned()).unwrap_or_default();
                    log.gpus.push(SmiGpu { id, ..SmiGpu::default() });
                }
                if name == "process_info"
                    && path.get(1).is_some_and(|top| top == "gpu")
                    && let Some(gpu) = log.gpus.last_mut()
                {
                    gpu.processes.push(BTreeMap::new());
                }
                if name == "mig_device"
                    && path.get(1).is_some_and(|top| top == "gpu")
                    && let Some(gpu) = log.gpus.last_mut()
                    && gpu.mig.len() < MIG
                {
                    gpu.mig.push(BTreeMap::new());
                }
                path.push(name);
                value.clear();
            }
            Event::Text(words) => {
                value.push_str(&words.into_inner());
            }
            Event::GeneralRef(reference) => {
                value.push_str(entity(&reference.into_inner()));
            }
            Event::End(_) => {
                keep(&mut log, &path, value.trim());
                value.clear();
                path.pop();
            }
            Event::Eof if !path.is_empty() => return Err(at(format!("the text ends inside <{}>", path.join("/")))),
            Event::Eof if !rooted => return Err(at("no <nvidia_smi_log> stands in this text".into())),
            Event::Eof => return Ok(log),
            // The declaration, the DOCTYPE, comments, empty elements: they carry no value.
            _ => {}
        }
    }
}

fn keep(log: &mut SmiLog, path: &[String], value: &str) {
    let (Some(name), false) = (path.last(), value.is_empty()) else { return };
    if path.get(1).is_none_or(|top| top != "gpu") {
        log.values.entry(path.get(1..).unwrap_or_default().join("/")).or_insert_with(|| value.to_owned());
        return;
    }
    let Some(gpu) = log.gpus.last_mut() else { return };
    if path.iter().any(|part| part == "process_info") {
        if let Some(process) = gpu.processes.last_mut() {
            process.entry(name.clone()).or_insert_with(|| value.to_owned());
        }
        return;
    }
    if let Some(at) = path.iter().position(|part| part == "mig_device") {
        if let Some(device) = gpu.mig.last_mut() {
            device.entry(path.get(at + 1..).unwrap_or_default().join("/")).or_insert_with(|| value.to_owned());
        }
        return;
    }
    if path.iter().any(|part| part == "supported_mem_clock") {
        if name == "value" && gpu.clocks.len() < CLOCKS {
            gpu.clocks.push((value.to_owned(), Vec::new()));
        } else if name == "supported_graphics_clock"
            && let Some((_, list)) = gpu.clocks.last_mut()
            && list.len() < CLOCKS
        {
            list.push(value.to_owned());
        }
        return;
    }
    gpu.values.entry(path.get(2..).unwrap_or_default().join("/")).or_insert_with(|| value.to_owned());
}

fn entity(name: &str) -> &'static str {
    match name {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => "\u{fffd}",
    }
}

fn clip(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPORT: &str = "<?xml version=\"1.0\" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM \"nvsmi_device_v11.dtd\">\n\
<nvidia_smi_log>\n\t<driver_version>510.54</driver_version>\n\t<gpu id=\"00000000:01:00.0\">\n\
\t\t<product_name>NVIDIA GeForce GT 1030</product_name>\n\t\t<fb_memory_usage>\n\t\t\t<total>2048 MiB</total>\n\
\t\t</fb_memory_usage>\n\t\t<processes>\n\t\t\t<process_info>\n\t\t\t\t<pid>1719</pid>\n\t\t\t\t<type>C</type>\n\
\t\t\t\t<process_name>/usr/lib/jellyfin-ffmpeg/ffmpeg &amp; co</process_name>\n\
\t\t\t\t<used_memory>949 MiB</used_memory>\n\t\t\t</process_info>\n\t\t</processes>\n\t</gpu>\n</nvidia_smi_log>\n";

    #[test]
    fn finds_values_by_path() {
        let log = parse(REPORT).expect("a whole report");
        assert_eq!(log.values.get("driver_version").map(String::as_str), Some("510.54"));
        let gpu = &log.gpus[0];
        assert_eq!(gpu.id, "00000000:01:00.0");
        assert_eq!(gpu.values["fb_memory_usage/total"], "2048 MiB");
        assert!(!gpu.values.contains_key("processes/process_info/pid"));
        assert_eq!(gpu.processes[0]["pid"], "1719");
        assert_eq!(gpu.processes[0]["process_name"], "/usr/lib/jellyfin-ffmpeg/ffmpeg & co");
    }

    #[test]
    fn says_where_a_text_is_no_report() {
        assert_eq!(parse("<html></html>").map_err(|error| error.line), Err(1));
        let cut = REPORT.split("</gpu>").next().expect("the part before");
        assert!(parse(cut).is_err_and(|error| error.what.contains("ends inside")));
        assert!(parse("").is_err());
        let wrong = parse("<nvidia_smi_log>\n<a>\n</b>\n</nvidia_smi_log>").expect_err("ends do not match");
        assert_eq!(wrong.line, 3);
    }

    proptest! {
        #[test]
        fn any_text_is_a_report_or_an_error(text in "[<>/a-z&; \n\"=?!-]{0,120}") {
            if let Ok(log) = parse(&text) {
                prop_assert!(text.contains("<nvidia_smi_log"), "{log:?}");
            }
        }

        #[test]
        fn cut_reports_are_errors(cut in 0..REPORT.trim_end().len()) {
            prop_assert!(parse(&REPORT[..cut]).is_err());
        }
    }
}
