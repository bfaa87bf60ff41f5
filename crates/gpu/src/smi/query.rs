//! `--query-gpu` and `--query-compute-apps`: comma-separated values.

use std::fmt::Write as _;

use machine::nvml::NvmlGpu;
use model::Seen;

use super::fields::{self, Field};
use super::{Smi, clean, error, mib, program};

/// `--format=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Format {
    pub header: bool,
    pub units: bool,
}

/// A query that cannot be answered, in the tool's words on standard output; it ends with status 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError(pub String);

impl Format {
    /// "csv,noheader,nounits".
    pub fn parse(text: Option<&str>) -> Result<Format, QueryError> {
        let missing = || QueryError("\"--format=\" switch is missing. Please run 'nvidia-smi -h' for help.\n\n".into());
        let Some(text) = text else { return Err(missing()) };
        let mut format = Format { header: true, units: true };
        let mut csv = false;
        for part in text.split(',') {
            match part.trim() {
                "csv" => csv = true,
                "noheader" => format.header = false,
                "nounits" => format.units = false,
                _ => return Err(QueryError("Format modifier is not recognized.\n".into())),
            }
        }
        if csv { Ok(format) } else { Err(missing()) }
    }
}

/// What is asked of each GPU, in order.
pub struct Query {
    fields: Vec<&'static Field>,
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}

fn unknown(name: &str) -> QueryError {
    QueryError(format!("Field \"{}\" is not a valid field to query.\n\n", clean(name)))
}

impl Query {
    /// Names as the tool's `--help-query-gpu` lists them.
    pub fn parse(text: &str) -> Result<Query, QueryError> {
        let field = |name: &str| fields::find(name).ok_or_else(|| unknown(name));
        Ok(Query { fields: names(text).map(field).collect::<Result<_, _>>()? })
    }

    /// The header, where it is wanted: once for all rounds of `-l`. A field that has several names goes by its first, and
    /// clocks' reasons by the name that the branch has for them.
    pub fn header(&self, smi: &Smi<'_>, format: Format) -> String {
        if !format.header {
            return String::new();
        }
        let title = |field: &&Field| {
            let name = field.names.first().copied().unwrap_or_default();
            let name = match name.strip_prefix("clocks_event_reasons.") {
                Some(reason) if smi.branch() < 530 => format!("clocks_throttle_reasons.{reason}"),
                _ => name.to_owned(),
            };
            if field.unit.is_empty() { name } else { format!("{name} [{}]", field.unit) }
        };
        self.fields.iter().map(title).collect::<Vec<_>>().join(", ") + "\n"
    }

    /// A line a GPU.
    pub fn rows(&self, smi: &Smi<'_>, format: Format) -> String {
        let mut out = String::new();
        for gpu in smi.gpus() {
            let value = |field: &&'static Field| match (field.get)(smi, gpu) {
                Seen::Is(value) if format.units && !field.unit.is_empty() => {
                    format!("{} {}", clean(&value), field.unit)
                }
                Seen::Is(value) => clean(&value),
                Seen::Absent if bare(field, smi.branch()) => "N/A".into(),
                Seen::Absent => "[N/A]".into(),
                Seen::Unreadable(reason) => format!("[{}]", error(&reason)),
            };
            let _ = writeln!(out, "{}", self.fields.iter().map(value).collect::<Vec<_>>().join(", "));
        }
        out
    }
}

/// Some fields' N/A stands without its brackets.
fn bare(field: &Field, branch: u32) -> bool {
    field.names.contains(&"temperature.memory")
        || (branch >= 570 && field.names.first().is_some_and(|name| name.starts_with("fabric.")))
}

/// `--query-compute-apps`.
pub struct Apps {
    fields: Vec<(&'static str, App)>,
}

#[derive(Clone, Copy)]
enum App {
    Stamp,
    GpuName,
    Bus,
    Serial,
    Uuid,
    Pid,
    Name,
    Memory,
}

const APPS: [(&[&str], App, &str); 8] = [
    (&["timestamp"], App::Stamp, "when the question was asked: YYYY/MM/DD HH:MM:SS.msec"),
    (&["gpu_name"], App::GpuName, "the GPU's product name"),
    (&["gpu_bus_id"], App::Bus, "the GPU's PCI address: domain:bus:device.function"),
    (&["gpu_serial"], App::Serial, "the serial number on the GPU's board"),
    (&["gpu_uuid"], App::Uuid, "the GPU's UUID"),
    (&["pid"], App::Pid, "the process's number, of the first PID namespace"),
    (&["process_name", "name"], App::Name, "the program, by /proc"),
    (&["used_gpu_memory", "used_memory"], App::Memory, "device memory of its contexts"),
];

/// The names that [`Apps`] takes.
pub fn help_query_apps() -> String {
    let mut out = String::from("List of valid properties to query for the switch \"--query-compute-apps\":\n");
    for (names, _, what) in APPS {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let _ = write!(out, "\n{}\n{what}\n", names.join(" or "));
    }
    out
}

impl Apps {
    pub fn parse(text: &str) -> Result<Apps, QueryError> {
        let field = |name: &str| {
            let (names, app, _) =
                APPS.iter().find(|(names, _, _)| names.contains(&name)).ok_or_else(|| unknown(name))?;
            Ok((names.first().copied().unwrap_or_default(), *app))
        };
        Ok(Apps { fields: names(text).map(field).collect::<Result<_, _>>()? })
    }

    pub fn header(&self, format: Format) -> String {
        if !format.header {
            return String::new();
        }
        let title = |(name, app): &(&str, App)| match app {
            App::Memory => format!("{name} [MiB]"),
            _ => (*name).to_owned(),
        };
        self.fields.iter().map(title).collect::<Vec<_>>().join(", ") + "\n"
    }

    /// A line a process that computes.
    pub fn rows(&self, smi: &Smi<'_>, format: Format) -> String {
        let mut out = String::new();
        for gpu in smi.gpus() {
            for process in gpu.processes.get().into_iter().flatten().filter(|process| process.kind.contains('C')) {
                let value = |(_, app): &(&str, App)| self.value(*app, smi, gpu, process, format);
                let _ = writeln!(out, "{}", self.fields.iter().map(value).collect::<Vec<_>>().join(", "));
            }
        }
        out
    }

    fn value(
        &self,
        app: App,
        smi: &Smi<'_>,
        gpu: &NvmlGpu,
        process: &machine::nvml::NvmlProcess,
        format: Format,
    ) -> String {
        let shown = |seen: &Seen<String>| match seen {
            Seen::Is(text) => clean(text),
            Seen::Absent => "[N/A]".into(),
            Seen::Unreadable(reason) => format!("[{}]", error(reason)),
        };
        match app {
            App::Stamp => smi.stamp.to_owned(),
            App::GpuName => shown(&gpu.name),
            App::Bus => shown(&gpu.bus_id),
            App::Serial => shown(&gpu.serial),
            App::Uuid => shown(&gpu.uuid),
            App::Pid => process.pid.to_string(),
            App::Name => program(&process.name),
            App::Memory => shown(
                &mib(&process.memory).map(|mib| if format.units { format!("{mib} MiB") } else { mib.to_string() }),
            ),
        }
    }
}
