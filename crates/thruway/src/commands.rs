//! The handbook's page of all commands, made of the grammar itself.

use clap::{Arg, Command};

use crate::{BLIND, DONE, say};

/// The verbs of thruway-node, another program: `thruway node VERB`. A test holds them to its own help.
const NODE: [(&str, &str); 8] = [
    ("run", "The agent: offers this node's GPUs to the kubelet, watches their health, until it is stopped"),
    (
        "manifests",
        "Print what the cluster is given: namespace, accounts, rights, admission policy, DaemonSets, as plain YAML",
    ),
    ("preflight", "Say of each node whether the agent's DaemonSet lands there, by what, and why not; changes nothing"),
    ("doctor", "Why no GPU arrives in this node's pods, the first broken link first; and who uses which card"),
    (
        "discover",
        "Label this node where it has an NVIDIA card that pods could get: PCI ids alone, no driver, no privileges",
    ),
    ("labels", "Print the labels that this node should have; set them, or write node feature discovery's file, once"),
    ("cordon", "Give a GPU to no new pod; those that have it go on"),
    ("uncordon", "Take a GPU's cordon back"),
];

/// 0 where the grammar takes these words, 2 and the reason where it does not. The first is the program's name.
pub fn parse(words: &[String]) -> anyhow::Result<u8> {
    use clap::Parser as _;
    let words = words.iter().skip_while(|word| *word == "--");
    match crate::cli::Cli::try_parse_from(words) {
        Ok(_) => Ok(DONE),
        Err(error) => {
            crate::warn(error.to_string().trim_end())?;
            Ok(if error.use_stderr() { BLIND } else { DONE })
        }
    }
}

pub fn markdown(root: &Command) -> anyhow::Result<u8> {
    let mut root = root.clone();
    root.build();
    let mut page = String::from(
        "# Every command\n\nMade by `thruway commands`; a test holds this file to the program. `thruway COMMAND --help` says the \
         same on a terminal, and `thruway man` is the page for man.\n",
    );
    section(&mut page, &root, &root, "thruway");
    say(&page).map(|()| DONE)
}

fn section(page: &mut String, root: &Command, command: &Command, name: &str) {
    let depth = name.split(' ').count().min(3) + 1;
    page.push_str(&format!("\n{} {name}\n\n", "#".repeat(depth)));
    if let Some(about) = command.get_long_about().or(command.get_about()) {
        let paragraphs: Vec<String> = about.to_string().split("\n\n").map(flat).collect();
        page.push_str(&format!("{}\n", paragraphs.join("\n\n")));
    }
    let own = shown(command, name == "thruway");
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    page.push_str(&format!("\n```text\n{usage}\n```\n"));
    // a floor's verbs are those of the whole way
    let whole = command.get_name();
    let like = root
        .find_subcommand(whole)
        .filter(|like| name.split(' ').count() == 3 && table(like, false) == table(command, false));
    if let (Some(_), false) = (like, own.is_empty()) {
        page.push_str(&format!("\nOptions: those of [thruway {whole}](#thruway-{whole}).\n"));
    } else if !own.is_empty() {
        page.push_str(&table(command, name == "thruway"));
    }
    if name == "thruway node" {
        page.push_str("\n| verb | |\n|---|---|\n");
        for (verb, about) in NODE {
            page.push_str(&format!("| `{verb}` | {} |\n", flat(about)));
        }
        return;
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        section(page, root, sub, &format!("{name} {}", sub.get_name()));
    }
}

/// What `--help` shows; those of every command stand with the program alone.
fn shown(command: &Command, global: bool) -> Vec<&Arg> {
    let all = command.get_arguments();
    all.filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str()))
        .filter(|arg| global || !arg.is_global_set())
        .collect()
}

fn table(command: &Command, global: bool) -> String {
    let rows = shown(command, global).into_iter().map(|arg| format!("| {} | {} |\n", written(arg), said(arg)));
    format!("\n| | |\n|---|---|\n{}", rows.collect::<String>())
}

/// `--give <BDF>`, `[CARD]`.
fn written(arg: &Arg) -> String {
    let names: Vec<String> = arg.get_value_names().into_iter().flatten().map(|name| name.to_string()).collect();
    let takes = arg.get_action().takes_values();
    let values: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
    let text = match (arg.get_long(), arg.get_short()) {
        (None, None) => names.join(" "),
        (long, short) => {
            let names = [short.map(|c| format!("-{c}")), long.map(|long| format!("--{long}"))];
            let names: Vec<String> = names.into_iter().flatten().collect();
            let tail = if takes && !values.is_empty() { format!(" {}", values.join(" ")) } else { String::new() };
            format!("{}{tail}", names.join(", "))
        }
    };
    format!("`{text}`")
}

fn said(arg: &Arg) -> String {
    let mut text = arg.get_long_help().or(arg.get_help()).map(|help| flat(&help.to_string())).unwrap_or_default();
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}`: {}", value.get_name(), flat(&help.to_string())),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    let takes = arg.get_action().takes_values();
    if takes && !choices.is_empty() {
        text.push_str(&format!(". One of {}", choices.join("; ")));
    }
    let default: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if takes && !default.is_empty() {
        text.push_str(&format!(" (without it: `{}`)", default.join(" ")));
    }
    text
}

/// One line of Markdown, in which nothing is markup but what is in backticks.
fn flat(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = String::with_capacity(text.len());
    for (at, piece) in text.split('`').enumerate() {
        if at > 0 {
            out.push('`');
        }
        let code = at % 2 == 1;
        for c in piece.chars() {
            match c {
                '|' => out.push_str("\\|"),
                '<' | '>' | '*' | '_' | '[' | ']' if !code => out.extend(['\\', c]),
                _ => out.push(c),
            }
        }
    }
    out
}
