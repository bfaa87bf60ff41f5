//! thruway: arguments in, reports out.
#![allow(
    clippy::disallowed_methods,
    reason = "the program reads its own arguments, plans and outputs; machines only through machine"
)]

mod advice;
mod apps;
mod assign;
mod audit;
mod bind;
mod change;
mod cli;
mod cluster;
mod codecs;
mod commands;
mod demo;
mod doctor;
mod driver;
mod explain;
mod explain_log;
mod gpus;
mod gpus_detail;
mod guard;
mod jellyfin_api;
mod lab;
mod manual;
mod mig;
mod paint;
mod plans;
mod prove;
mod pve_api;
mod record;
mod serve;
mod smi;
mod specs;
mod stands;
mod status;
mod stress;
mod target;
mod top;
mod topo;
mod trial;
mod up;
mod vms;
mod watch;
mod way;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use model::Layer;

use cli::{
    AppVerb, CdiCli, Cli, Color, Command, ContainerVerb, Global, GuestVerb, HostVerb, Verb, VmVerb, WayVerb,
    WholePlanArgs,
};
use target::Target;
use way::Way;

/// Exit statuses: all well, findings, could not look.
const DONE: u8 = 0;
const FOUND: u8 = 1;
const BLIND: u8 = 2;

fn main() -> ExitCode {
    let cli = parsed();
    anstream::ColorChoice::write_global(match cli.global.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::AlwaysAnsi,
        Color::Never => anstream::ColorChoice::Never,
    });
    match run(cli) {
        Ok(status) => ExitCode::from(status),
        // The reader went away (`thruway doctor | head`): that is no error of ours.
        Err(error) if broken_pipe(&error) => ExitCode::from(DONE),
        Err(error) => {
            let _ = writeln!(anstream::stderr(), "{} {}", paint::paint(paint::Tone::Bad, "thruway:"), chain(&error));
            ExitCode::from(BLIND)
        }
    }
}

fn parsed() -> Cli {
    let mut words = std::env::args_os();
    match words.nth(1) {
        Some(word) if word == "cdi" && words.len() > 0 => {
            let CdiCli { global, verb } = CdiCli::parse_from(std::iter::once("thruway cdi".into()).chain(words));
            Cli { global, command: Command::Cdi { verb } }
        }
        _ => Cli::parse(),
    }
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let global = &cli.global;
    match cli.command {
        Command::Doctor { layer } => doctor(global, layer),
        Command::Gpus(args) if args.watch => watch::watch(global, &args),
        Command::Gpus(args) => {
            let target = Target::open(global)?;
            let machine = target.machine();
            let deep = global.json || global.verbose;
            let inventory = if deep { gpu::observe_all(machine) } else { gpu::observe(machine) };
            let ledger = journal::ledger::read(machine);
            let name = target.name(global);
            if global.json {
                let json = gpus::json(&inventory, &ledger, &name, machine.kind(), args.card)?;
                say(&(serde_json::to_string_pretty(&json)? + "\n"))?;
            } else {
                say(&gpus::page(&inventory, &ledger, &name, machine.kind(), args.card, global.verbose))?;
            }
            Ok(gpus::status(&inventory, args.card))
        }
        Command::Top(args) => top::top(global, &args),
        Command::Smi(args) => smi::smi(global, &args),
        Command::Topo { matrix: _ } => topo::topo(global),
        Command::Serve(args) => serve::serve(global, &args),
        Command::Stress(args) => stress::stress(global, &args),
        Command::Codecs { card } => codecs::codecs(global, card),
        Command::Mig { verb } => mig::mig(global, &verb),
        Command::Assign(args) => assign::assign(global, &args),
        Command::Plan(WholePlanArgs { graph: graph @ Some(_), way: file, .. }) => {
            up::way(global, &WayVerb::Plan { file, graph })
        }
        Command::Plan(args) => change::plan(global, &args.plan, &Layer::ALL),
        Command::Apply(args) => change::apply(global, &args, &Layer::ALL),
        Command::Verify => stands::verify(global, &Layer::ALL),
        Command::Undo(args) => stands::undo(global, &args, &Layer::ALL),
        Command::Up(args) => up::up(global, &args),
        Command::Down(args) => up::down(global, &args),
        Command::Way { verb } => up::way(global, &verb),
        Command::Log(args) => stands::log(global, &args),
        Command::Guard(args) => guard::guard(global, &args),
        Command::Capture { output, no_redact } => record::capture(global, &output, no_redact),
        Command::Explain { log: Some(path), .. } => {
            explain_log::explain(global, &path.display().to_string(), &explain_log::file(&path)?)
        }
        Command::Explain { id, markdown, .. } => explain::explain(global, id.as_deref(), markdown),
        Command::Demo(args) => demo::demo(global, &args),
        Command::Lab(args) => lab::lab(global, &args),
        Command::Host { verb: HostVerb::Common(verb) } => floor(global, Layer::Host, verb),
        Command::Host { verb: HostVerb::Audit } => audit::audit(global),
        Command::Host { verb: HostVerb::Bind(args) } => bind::bind(global, &args),
        Command::Host { verb: HostVerb::Unbind(args) } => bind::unbind(global, &args),
        Command::Vm { verb: VmVerb::Common(verb) } => floor(global, Layer::Vm, verb),
        Command::Vm { verb: VmVerb::List } => vms::list(global),
        Command::Vm { verb: VmVerb::Check { vm } } => vms::check(global, &vm),
        Command::Guest { verb: GuestVerb::Common(verb) } => floor(global, Layer::Guest, verb),
        Command::Guest { verb: GuestVerb::Driver { cards } } => driver::driver(global, &cards),
        Command::Container { verb: ContainerVerb::Common(verb) } => floor(global, Layer::Container, verb),
        Command::Container { verb: ContainerVerb::Test(args) } => trial::trial(global, &args),
        Command::Container { verb: ContainerVerb::Probe { time } } => trial::probe::print(time),
        Command::Kube { verb } => cluster::kube(global, verb),
        Command::Node(words) => cluster::node(global, &[], &words.words),
        Command::App { verb: AppVerb::Prove(args) } => prove::prove(global, &args),
        Command::App { verb: AppVerb::Jellyfin { verb } } => apps::jellyfin(global, verb),
        Command::App { verb: AppVerb::Common(verb) } => floor(global, Layer::App, verb),
        Command::App { verb: AppVerb::Advice { app, codecs_of } } => {
            advice::advice(global, app.as_deref(), codecs_of.as_deref())
        }
        Command::Cdi { verb } => specs::run(global, &verb),
        Command::Commands { parse } if !parse.is_empty() => commands::parse(&parse),
        Command::Commands { .. } => commands::markdown(&Cli::command()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "thruway", &mut script);
            say(&String::from_utf8_lossy(&script)).map(|()| DONE)
        }
        Command::Man { all } => manual::man(all.as_deref()),
    }
}

fn floor(global: &Global, layer: Layer, verb: Verb) -> anyhow::Result<u8> {
    let layers = [layer];
    match verb {
        Verb::Doctor => doctor(global, Some(layer)),
        Verb::Plan(args) => change::plan(global, &args, &layers),
        Verb::Apply(args) => change::apply(global, &args, &layers),
        Verb::Verify => stands::verify(global, &layers),
        Verb::Status => status::status(global, layer),
        Verb::Undo(args) => stands::undo(global, &args, &layers),
    }
}

fn doctor(global: &Global, layer: Option<Layer>) -> anyhow::Result<u8> {
    let target = Target::of(global, layer.as_slice(), None)?;
    let machine = target.machine();
    let mut way = Way::observe(machine);
    way.ask_cards(machine, layer.as_ref().map_or(&Layer::ALL, std::slice::from_ref), &model::Intent::default());
    let report = doctor::Report::new(&way, target.name(global), machine.kind(), layer);
    if global.json {
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        say(&report.page(global.verbose))?;
    }
    Ok(report.status())
}

/// Prints a report to standard output.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A line beside the report: progress, recovery.
fn warn(text: &str) -> anyhow::Result<()> {
    writeln!(anstream::stderr(), "{text}")?;
    Ok(())
}

/// The error and its causes in one line each; a cause that only repeats is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = paint::tame(&error.to_string()).replace("\\n", "\n");
    for cause in error.chain().skip(1) {
        let cause = paint::tame(&cause.to_string()).replace("\\n", "\n");
        if !text.contains(&cause) {
            text.push_str("\n  because: ");
            text.push_str(&cause);
        }
    }
    text
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.into_iter().any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
