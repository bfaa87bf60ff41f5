//! `thruway cdi`: specs printed, written, listed, judged, moved, and kept true.

mod generate;
mod refresh;
mod watch;

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use cdi::transform::{self, Side};
use cdi::{HookWish, Naming, Options, Weight};
use formats::cdispec::{self, Form, Spec};
use formats::yamlout;
use journal::cache::Cache;
use model::Seen;

use crate::cli::{CdiVerb, Global, NameStrategy, RelativeTo, RootArgs, SpecArgs, TransformVerb};
use crate::paint::{Tone, paint};
use crate::target::Target;
use crate::{BLIND, DONE, FOUND, say, warn};

pub fn run(global: &Global, verb: &CdiVerb) -> anyhow::Result<u8> {
    match verb {
        CdiVerb::Generate(args) => generate::generate(global, args),
        CdiVerb::List { spec_dir } => list(global, spec_dir),
        CdiVerb::Check { files, spec_dir } => check(global, files, spec_dir),
        CdiVerb::Refresh(args) if args.watch => watch::watch(global, args),
        CdiVerb::Refresh(args) => refresh::refresh(global, args),
        CdiVerb::Transform { verb: TransformVerb::Root(args) } => move_root(args),
    }
}

fn options(args: &SpecArgs) -> Options {
    let naming = |strategy: &NameStrategy| match strategy {
        NameStrategy::Index => Naming::Index,
        NameStrategy::Uuid => Naming::Uuid,
        NameStrategy::TypeIndex => Naming::TypeIndex,
    };
    Options {
        hook: match args.hook.as_deref() {
            None => HookWish::Installed,
            Some("none") => HookWish::None,
            Some(path) => HookWish::Path(path.to_owned()),
        },
        names: args.device_name_strategy.iter().map(naming).collect(),
        no_all: args.no_all_device,
        driver_root: args.driver_root.clone().filter(|root| root != "/"),
        dev_root: args.dev_root.clone().filter(|root| root != "/"),
        no_gids: args.no_additional_gids,
        without: args.disable_hook.clone(),
        ..Options::default()
    }
}

fn printed(spec: &Spec, form: Form) -> anyhow::Result<String> {
    Ok(match form {
        Form::Json => cdispec::to_json(spec),
        Form::Yaml => yamlout::print(&serde_json::to_value(spec)?),
    })
}

/// Writes a file that was asked for by its path: whole, by rename.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let path = std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))?;
    let cache = Cache::open("/".as_ref())?;
    cache.put(&path.to_string_lossy(), text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn dirs(given: &[String]) -> Vec<String> {
    if given.is_empty() { cdi::SPEC_DIRS.map(str::to_owned).to_vec() } else { given.to_vec() }
}

fn list(global: &Global, given: &[String]) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let (files, unseen) = cdi::read_dirs(target.machine(), &dirs(given));
    for (dir, reason) in &unseen {
        warn(&format!("{dir} could not be read: {reason}"))?;
    }
    for file in &files {
        match &file.state {
            cdi::State::Spec(_) => {}
            cdi::State::Broken { line, says } => warn(&format!("{}:{line}: {says}", file.path))?,
            cdi::State::Gone => warn(&format!("{}: {}", file.path, cdi::GONE))?,
            cdi::State::Unreadable(reason) => warn(&format!("{}: {reason}", file.path))?,
        }
    }
    let devices = cdi::list(&files);
    if global.json {
        let json = serde_json::json!({ "schema": 1, "devices": devices });
        say(&(serde_json::to_string_pretty(&json)? + "\n"))?;
    } else {
        let width = devices.iter().map(|device| device.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for device in &devices {
            text.push_str(&format!(
                "{:width$}  {}",
                paint(Tone::Strong, &device.name),
                paint(Tone::Faint, &device.file)
            ));
            if let Some(second) = &device.conflict {
                text.push_str(&paint(Tone::Bad, &format!("  also in {second}: engines refuse it")));
            }
            if !device.shadows.is_empty() {
                text.push_str(&paint(Tone::Warn, &format!("  hides {}", device.shadows.join(", "))));
            }
            text.push('\n');
        }
        if devices.is_empty() {
            text.push_str("no CDI device is defined; sudo thruway cdi refresh writes the specs of this machine\n");
        }
        say(&text)?;
    }
    let blind = files.is_empty() && !unseen.is_empty();
    Ok(if blind {
        BLIND
    } else if devices.iter().any(|device| device.conflict.is_some()) {
        FOUND
    } else {
        DONE
    })
}

fn check(global: &Global, given: &[String], spec_dirs: &[String]) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let machine = target.machine();
    let (files, unseen) = if given.is_empty() {
        cdi::read_dirs(machine, &dirs(spec_dirs))
    } else {
        let mut files = Vec::new();
        for path in given {
            let here =
                std::path::absolute(path).map_or_else(|_| path.clone(), |path| path.to_string_lossy().into_owned());
            let path = if global.root.is_some() { path.clone() } else { here };
            match cdi::read_file(machine, &path, 0) {
                Some(file) => files.push(file),
                None => bail!("{path} ends in neither .json nor .yaml, so engines pass it over"),
            }
        }
        (files, Vec::new())
    };
    let inventory = gpu::observe(machine);
    let gpus = match cdi::generate(machine, &inventory, &Options::default()) {
        Ok(made) => made.gpus,
        Err(_) => cdi::gpu_nodes(machine, &inventory, &mut Vec::new()),
    };
    let running = inventory.driver.kernel.get().map(String::as_str);
    let findings = cdi::check(machine, &files, running, &gpus);
    if global.json {
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let json = serde_json::json!({ "schema": 1, "files": names, "findings": findings });
        say(&(serde_json::to_string_pretty(&json)? + "\n"))?;
    } else {
        let mut text = String::new();
        for finding in &findings {
            let place =
                if finding.line == 0 { finding.file.clone() } else { format!("{}:{}", finding.file, finding.line) };
            let tone = if finding.weight == Weight::Fault { Tone::Bad } else { Tone::Warn };
            text.push_str(&format!("{}  {}\n", paint(tone, &place), crate::paint::tame(&finding.says)));
            text.push_str(&format!("    {}\n", paint(Tone::Code, &finding.fix)));
        }
        if findings.is_empty() && unseen.is_empty() {
            text = match files.as_slice() {
                [] => "no spec is there; sudo thruway cdi refresh writes those of this machine\n".to_owned(),
                files => format!("{} files, all true of this machine\n", files.len()),
            };
        }
        say(&text)?;
    }
    for (dir, reason) in &unseen {
        warn(&format!("{dir} could not be read: {reason}"))?;
    }
    Ok(if !findings.is_empty() {
        FOUND
    } else if !unseen.is_empty() {
        BLIND
    } else {
        DONE
    })
}

fn move_root(args: &RootArgs) -> anyhow::Result<u8> {
    let mut bytes = Vec::new();
    let form = if args.input == "-" {
        std::io::stdin().take(8 << 20).read_to_end(&mut bytes).context("cannot read standard input")?;
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if first == Some(&b'{') { Form::Json } else { Form::Yaml }
    } else {
        let machine = machine::Root::live().context("cannot open /")?;
        let path = std::path::absolute(&args.input).with_context(|| format!("{} is no path", args.input))?;
        bytes = match machine::Machine::read(&machine, &path.to_string_lossy()) {
            Seen::Is(bytes) => bytes,
            Seen::Absent => bail!("{} is not there", args.input),
            Seen::Unreadable(reason) => bail!("cannot read {}: {reason}", args.input),
        };
        Form::of_path(&args.input).unwrap_or(Form::Yaml)
    };
    let mut spec = cdispec::parse(&bytes, form).with_context(|| format!("{} is no CDI spec", args.input))?;
    let side = if args.relative_to == RelativeTo::Host { Side::Host } else { Side::Container };
    transform::root(&mut spec, &args.from.to_string_lossy(), &args.to, side);
    if args.output == "-" {
        say(&printed(&spec, form)?)?;
    } else {
        put(args.output.as_ref(), &printed(&spec, Form::of_path(&args.output).unwrap_or(form))?)?;
    }
    Ok(DONE)
}
