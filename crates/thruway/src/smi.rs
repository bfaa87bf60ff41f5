//! `thruway smi`: NVML's report in nvidia-smi's forms. Nothing but those forms goes to standard output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gpu::smi::{Apps, Format, Query, QueryError, Smi};
use machine::Machine;
use machine::nvml::{Depth, NvmlReport};
use model::{Reason, Seen};

use crate::cli::{Global, SmiArgs};
use crate::target::Target;
use crate::{DONE, say};

/// The tool's own exit statuses: a wrong argument, nothing found, no driver, a GPU is lost, versions that do not fit.
const WRONG: u8 = 2;
const NOT_FOUND: u8 = 6;
const NO_DRIVER: u8 = 9;
const LOST: u8 = 15;
const MISMATCH: u8 = 18;
const UNKNOWN: u8 = 255;

pub fn smi(global: &Global, args: &SmiArgs) -> anyhow::Result<u8> {
    if args.help_query_gpu {
        return say(&gpu::smi::help_query_gpu()).map(|()| DONE);
    }
    if args.help_query_compute_apps {
        return say(&gpu::smi::help_query_apps()).map(|()| DONE);
    }
    let form = match Form::of(args) {
        Ok(form) => form,
        Err(QueryError(words)) => return say(&words).map(|()| WRONG),
    };
    let target = Target::open(global)?;
    let machine = target.machine();
    let stop = Arc::new(AtomicBool::new(false));
    if args.every.is_some() {
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop))?;
    }
    let mut first = true;
    loop {
        let status = once(machine, args, &form, first)?;
        first = false;
        let Some(seconds) = args.every.filter(|_| status == DONE) else { return Ok(status) };
        let mut left = Duration::from_secs(u64::from(seconds.max(1)));
        while !left.is_zero() {
            if stop.load(Ordering::Relaxed) {
                return Ok(DONE);
            }
            let step = left.min(Duration::from_millis(100));
            std::thread::sleep(step);
            left = left.saturating_sub(step);
        }
    }
}

enum Form {
    Table,
    List,
    Words,
    Xml,
    Query(Query, Format),
    Apps(Apps, Format),
}

impl Form {
    /// What it shows is asked, and no more.
    fn depth(&self) -> Depth {
        match self {
            Form::Table | Form::List => Depth::Table,
            _ => Depth::All,
        }
    }

    fn of(args: &SmiArgs) -> Result<Form, QueryError> {
        let format = || Format::parse(args.format.as_deref());
        Ok(if let Some(fields) = &args.query_gpu {
            let format = format()?;
            Form::Query(Query::parse(fields)?, format)
        } else if let Some(fields) = &args.query_compute_apps {
            let format = format()?;
            Form::Apps(Apps::parse(fields)?, format)
        } else if args.list {
            Form::List
        } else if args.query {
            if args.xml { Form::Xml } else { Form::Words }
        } else {
            Form::Table
        })
    }
}

/// One round: asks, and prints.
fn once(machine: &dyn Machine, args: &SmiArgs, form: &Form, first: bool) -> anyhow::Result<u8> {
    let report = match gpu::awake(machine).and_then(|()| machine::nvml::ask(machine, form.depth())) {
        Seen::Is(report) => report,
        other => return refused(&other),
    };
    let now = jiff::Zoned::now();
    let time = now.strftime("%a %b %e %H:%M:%S %Y").to_string();
    let stamp = now.strftime("%Y/%m/%d %H:%M:%S.%3f").to_string();
    let mut smi = Smi { report: &report, only: None, time: &time, stamp: &stamp };
    let mut chosen = Vec::new();
    for id in args.id.iter().flat_map(|ids| ids.split(',')) {
        match smi.find(id.trim()) {
            Some(index) => chosen.push(index),
            None => return say("No devices were found\n").map(|()| NOT_FOUND),
        }
    }
    if !chosen.is_empty() {
        smi.only = Some(&chosen);
    }
    if report.gpus.is_empty() {
        return say("No devices were found\n").map(|()| NOT_FOUND);
    }
    let text = match form {
        Form::Table => gpu::smi::table(&smi),
        Form::List => gpu::smi::devices(&smi),
        Form::Words => smi.log(),
        Form::Xml => smi.xml(),
        Form::Query(query, format) => {
            (if first { query.header(&smi, *format) } else { String::new() }) + &query.rows(&smi, *format)
        }
        Form::Apps(apps, format) => {
            (if first { apps.header(*format) } else { String::new() }) + &apps.rows(&smi, *format)
        }
    };
    say(&text)?;
    Ok(match smi.lost() {
        Some(words) if !matches!(form, Form::List) => {
            crate::warn(words.trim_end())?;
            LOST
        }
        Some(_) => LOST,
        None => DONE,
    })
}

/// Why nothing can be printed: the tool's sentence where it has one, and ours.
fn refused(seen: &Seen<NvmlReport>) -> anyhow::Result<u8> {
    let (words, status) = match seen {
        Seen::Unreadable(Reason::Other(why)) if why.contains("have different versions") => (
            format!("Failed to initialize NVML: Driver/library version mismatch\n{why}; a reboot loads the new module\n"),
            MISMATCH,
        ),
        Seen::Unreadable(reason) => (format!("Failed to initialize NVML: Unknown Error\n{reason}\n"), UNKNOWN),
        _ => (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA \
             driver is installed and running.\nthruway doctor says what is missing.\n\n"
                .to_owned(),
            NO_DRIVER,
        ),
    };
    say(&words).map(|()| status)
}
