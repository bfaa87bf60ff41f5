//! `thruway lab`: boots the QEMU lab and shows what it finds while it finds it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sim::lab::{Ended, Event, Form, Options, Report, Step};

use crate::cli::{Global, LabArgs, LabVerb};
use crate::paint::{Page, Tone, paint};
use crate::say;

const COLUMN: usize = 12;

pub fn lab(global: &Global, args: &LabArgs) -> anyhow::Result<u8> {
    if global.root.is_some() || global.from.is_some() || global.sim.is_some() {
        bail!("the lab brings its own machine: --root, --from and --sim choose none");
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("cannot watch for ctrl-C")?;
    }
    let (mut libraries, mut cut_after) = (None, None);
    let form = match (&args.verb, args.full, args.nested) {
        (Some(_), true, _) | (Some(_), _, true) => bail!("lab up is a form of its own: leave --full and --nested away"),
        (Some(LabVerb::Up { cut, libraries: dir }), ..) => {
            libraries.clone_from(dir);
            cut_after = cut.flatten().map(Duration::from_secs);
            if cut.is_some() { Form::UpCut } else { Form::Up }
        }
        (None, true, _) => Form::Full,
        (None, false, true) => Form::Nested,
        (None, false, false) => Form::Short,
    };
    let options = Options {
        form,
        thruway: std::env::current_exe().context("cannot find this program's own file")?,
        cache: cache(args)?,
        libraries,
        cut_after,
        limit: args.limit.map_or(form.limit(), Duration::from_secs),
        interrupted,
    };
    let mut printed = Ok(());
    let mut tell = |event: Event| {
        if !global.json && printed.is_ok() {
            printed = say(&progress(&event, global.verbose));
        }
    };
    let report = sim::lab::run(&options, &mut tell)?;
    printed?;
    if global.json {
        let mut json = serde_json::to_value(&report)?;
        if let Some(object) = json.as_object_mut() {
            object.insert("thruway".into(), env!("CARGO_PKG_VERSION").into());
        }
        say(&(serde_json::to_string_pretty(&json)? + "\n"))?;
    } else {
        say(&summary(&report))?;
    }
    Ok(report.status())
}

/// The directory given, or the user's cache as the XDG base directory specification has it.
fn cache(args: &LabArgs) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &args.cache {
        return Ok(dir.clone());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither HOME nor XDG_CACHE_HOME is set: name a directory with --cache")?.join("thruway/lab"))
}

fn progress(event: &Event, verbose: bool) -> String {
    match event {
        Event::Preparing(what) => format!("{}\n", paint(Tone::Faint, what)),
        Event::Booting { kernel, qemu } => {
            let head = format!("{} {}", paint(Tone::Strong, "QEMU lab"), paint(Tone::Warn, "(simulated)"));
            let what = format!("Linux {kernel} on {qemu}, with a fake NVIDIA GT 1030 [10de:1d01] that thruway serves");
            format!("{head}\n{}\n\n", paint(Tone::Faint, &what))
        }
        Event::Doing { boot, seconds, what } => {
            let clock = format!("boot {boot}, {seconds:.0} s");
            format!("      {}\n", paint(Tone::Faint, &format!("{clock:<16}{what}")))
        }
        // What thruway printed in the guest, with its own "simulated" on the heading above.
        Event::Said(text) if verbose => format!("    {}\n", paint(Tone::Faint, text)),
        Event::Said(_) => String::new(),
        Event::Step(step) => line(step),
    }
}

fn line(step: &Step) -> String {
    let mut page = Page::new();
    let (tone, mark) = if step.ok { (Tone::Good, "ok") } else { (Tone::Bad, "FAIL") };
    let title = if step.title.is_empty() { step.id.as_str() } else { step.title };
    page.line(format!("{}{}{title}", paint(tone, mark), " ".repeat(6 - mark.len())));
    if !step.evidence.is_empty() {
        page.hang(6, "", 0, Tone::Faint, &step.evidence);
    }
    page.text()
}

fn summary(report: &Report) -> String {
    let mut page = Page::new();
    page.gap();
    let well = report.steps.iter().filter(|step| step.ok).count();
    let (tone, verdict) = if report.status() == 0 { (Tone::Good, "all well") } else { (Tone::Bad, "not well") };
    let counted = format!("{well} of {} steps in {:.1} s (simulated)", report.form.steps().len(), report.seconds);
    page.line(format!("{}: {counted}", paint(tone, verdict)));
    match report.ended {
        Ended::Finished => {}
        Ended::Early => page.hang(0, "ended", COLUMN, Tone::Bad, "QEMU ended before the guest was through"),
        Ended::Crashed => page.hang(0, "ended", COLUMN, Tone::Bad, "QEMU crashed, again and again"),
        Ended::Silent => page.hang(0, "ended", COLUMN, Tone::Bad, "the guest fell silent, again and again"),
        Ended::TimeLimit => page.hang(0, "ended", COLUMN, Tone::Bad, "the time limit cut it off (--limit)"),
    }
    if !report.not_reached.is_empty() {
        page.hang(0, "not reached", COLUMN, Tone::Warn, &report.not_reached.join(", "));
    }
    for line in &report.last_words {
        page.line(paint(Tone::Faint, &format!("  {line}")));
    }
    format!("\n{}", page.text())
}
