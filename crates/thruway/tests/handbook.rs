//! The handbook below docs/: every page is in its summary, every link leads somewhere, and what it tells people to type is
//! typed here. Three kinds of blocks:
//!
//! ```text
//! ```console   `$ thruway …` lines are run, on simulated machines, in an empty folder that a page has for itself; what they print
//!              must be what stands below them. `...` alone on a line is any number of lines, `[..]` any part of one.
//! ```sh        is checked by `bash -n`, and its thruway lines by the program's own grammar.
//! ```text      is what a program said, and not read.
//! others       only their thruway lines, by the grammar. Indented blocks are of this kind.
//! ```
//!
//! `HANDBOOK=update cargo test -p thruway --test handbook` writes what is printed now below the commands whose text differs.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "reads the handbook, runs the program, prints what could not be checked"
)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{stderr, stdout, thruway};

/// Commands that are written about and not there yet; empty it when they are.
const NOT_YET: [&str; 0] = [];
/// Pages that are linked and not there yet.
const PAGES_NOT_YET: [&str; 0] = [];
/// What a block that is run may begin a line with: nothing that changes the machine of the test.
const RUNS: [&str; 5] = ["thruway", "cat", "grep", "diff", "ls"];

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Name and text of each page, the summary too.
fn pages() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = std::fs::read_dir(docs())
        .expect("docs")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("a page"))
        })
        .collect();
    all.sort();
    all
}

/// The handbook's pages and the README.
fn texts() -> Vec<(String, String)> {
    let mut all = pages();
    let readme = docs().join("../README.md");
    all.push(("../README.md".into(), std::fs::read_to_string(readme).expect("README.md")));
    all
}

/// A fenced or indented block: its kind ("console", "sh", "" …), the line it begins in (1-based), its lines.
struct Block {
    kind: String,
    line: usize,
    lines: Vec<String>,
}

/// The blocks of a page, and its prose with the blocks blanked.
fn parts(text: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose): (Vec<Block>, String) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    let mut blank = true;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        match (&mut open, trimmed.strip_prefix("```")) {
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some(block), _) => block.lines.push(line.to_owned()),
            (None, Some(kind)) => {
                open = Some(Block { kind: kind.trim().to_owned(), line: number + 2, lines: Vec::new() });
            }
            (None, None) if line.starts_with("    ") && !line.trim().is_empty() => {
                // after a blank line, else it goes on with a list
                match blocks.last_mut() {
                    Some(last) if last.kind == "indented" && last.line + last.lines.len() == number + 1 => {
                        last.lines.push(trimmed.to_owned());
                    }
                    _ if blank => {
                        let lines = vec![trimmed.to_owned()];
                        blocks.push(Block { kind: "indented".into(), line: number + 1, lines });
                    }
                    _ => prose.push_str(line),
                }
            }
            (None, None) => prose.push_str(line),
        }
        blank = line.trim().is_empty();
        prose.push('\n');
    }
    assert!(open.is_none(), "a block is not closed");
    (blocks, prose)
}

/// What stands between single backticks, with its line.
fn spans(prose: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose.lines().enumerate() {
        found.extend(line.split('`').skip(1).step_by(2).map(|span| (number + 1, span.to_owned())));
    }
    found
}

/// `(text)[target]` without what is in backticks.
fn links(prose: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose.lines().enumerate() {
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for piece in plain.split("](").skip(1) {
            found.extend(piece.split_once(')').map(|(target, _)| (number + 1, target.to_owned())));
        }
    }
    found
}

/// The anchors of a page, as mdBook and GitHub make them of its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let (_, prose) = parts(text);
    let mut found = BTreeSet::new();
    for heading in prose.lines().filter(|line| line.starts_with('#')) {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}

#[test]
fn every_page_is_in_the_summary_and_every_link_leads_somewhere() {
    let pages = pages();
    let summary = &pages.iter().find(|(name, _)| name == "SUMMARY.md").expect("docs/SUMMARY.md").1;
    let listed: Vec<String> = links(summary).into_iter().map(|(_, target)| target).collect();
    let mut wrong = Vec::new();
    for (name, _) in pages.iter().filter(|(name, _)| name != "SUMMARY.md") {
        if listed.iter().filter(|target| *target == name).count() != 1 {
            wrong.push(format!("docs/SUMMARY.md: {name} is not in it, or twice"));
        }
    }
    for (name, text) in texts() {
        for (line, target) in links(&parts(&text).1) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let place = docs().join(&name);
            let place = if path.is_empty() { place } else { place.parent().expect("a folder").join(path) };
            if PAGES_NOT_YET.contains(&path.trim_start_matches("docs/")) && !place.exists() {
                continue;
            }
            if !place.exists() {
                wrong.push(format!("docs/{name}:{line}: {target} is not there"));
            } else if !anchor.is_empty() {
                let text = std::fs::read_to_string(&place).expect("a page");
                if !anchors(&text).contains(anchor) {
                    wrong.push(format!("docs/{name}:{line}: {target}: no such heading"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The words of a thruway command line, as a reader would type it: no comment, no pipe, no redirection, and of words that may be
/// left out ([…]) or chosen (a|b) the first. None where it is no such line, or only the beginning of one (…).
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.trim_start_matches("$ ").trim_start_matches("# ").trim_start_matches("sudo ");
    if !line.starts_with("thruway ") || NOT_YET.iter().any(|not| line.starts_with(not)) {
        return None;
    }
    let mut words = vec![String::new()];
    let (mut quote, mut before) = (None, ' ');
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => words.last_mut()?.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') => words.push(String::new()),
            (None, '#' | '<' | '>' | '&' | ';' | '|') if before == ' ' => break,
            (None, c) => words.last_mut()?.push(c),
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    if words.iter().any(|word| word.contains('…') && !word.starts_with("GPU-") && !word.starts_with("MIG-")) {
        return None;
    }
    let chosen =
        |word: &String| word.trim_matches(['[', ']', '\\']).split(['|', '\\']).next().unwrap_or_default().to_owned();
    Some(words.iter().map(chosen).collect())
}

/// What the program's grammar says of it: nothing where it takes it. A beginning is let pass where `whole` is false.
fn refused(words: &[String], whole: bool) -> Option<String> {
    let mut args = vec!["commands", "--parse", "--"];
    args.extend(words.iter().map(String::as_str));
    let output = thruway(&args);
    let says = stderr(&output);
    // complete as it is, but for what must follow
    let more = ["required arguments were not provided", "requires a subcommand", "a value is required", "Usage:"];
    let unfinished =
        more.iter().take(3).any(|text| says.contains(text)) || (!says.contains("error:") && says.contains(more[3]));
    match output.status.code() {
        Some(0) => None,
        _ if !whole && unfinished => None,
        _ => Some(says.lines().next().unwrap_or_default().to_owned()),
    }
}

#[test]
fn every_command_line_is_one_that_the_program_takes() {
    let (mut wrong, mut taken) = (Vec::new(), 0);
    for (name, text) in texts() {
        // made by the program itself
        if name == "commands.md" || name == "checks.md" {
            continue;
        }
        let (blocks, prose) = parts(&text);
        let lines = blocks.iter().filter(|block| block.kind != "text").flat_map(|block| {
            block.lines.iter().enumerate().map(move |(at, line)| (block.line + at, line.trim().to_owned(), true))
        });
        let spans = spans(&prose).into_iter().map(|(line, span)| (line, span, false));
        for (line, text, whole) in lines.chain(spans) {
            let Some(words) = words(&text) else { continue };
            taken += 1;
            if let Some(why) = refused(&words, whole) {
                wrong.push(format!("docs/{name}:{line}: {text}\n    {why}"));
            }
        }
    }
    println!("{taken} command lines of the handbook are taken by the grammar");
    assert!(taken > 100, "{taken}: the reader finds no command lines any more");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for bad in ["thruway gpus --no-such-switch", "thruway no-such-word", "thruway host bnid 26:00.0"] {
        assert!(refused(&words(bad).expect("words"), false).is_some(), "{bad} was taken");
    }
}

#[test]
fn shell_blocks_are_shell() {
    let mut wrong = Vec::new();
    for (name, text) in texts() {
        for block in parts(&text).0 {
            let first = block.lines.first().map(|line| line.trim_start_matches("sudo ")).unwrap_or_default();
            let shell =
                ["thruway ", "kubectl ", "apt-get ", "systemctl ", "cargo ", "scripts/", "curl ", "openssl ", "qm "];
            let indented = block.kind == "indented" && shell.iter().any(|word| first.starts_with(word));
            if !["sh", "bash"].contains(&block.kind.as_str()) && !indented {
                continue;
            }
            let text = block.lines.join("\n");
            let output = Command::new("bash").args(["-n", "-c", &text]).stdin(Stdio::null()).output().expect("bash");
            if !output.status.success() {
                wrong.push(format!("docs/{name}:{}: {}", block.line, stderr(&output).trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `shown` stands for `said`: line by line, with `...` and `[..]`.
fn stands_for(shown: &[&str], said: &[&str]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((&"...", rest)) => (0..=said.len()).any(|at| stands_for(rest, &said[at..])),
        Some((line, rest)) => match said.split_first() {
            Some((first, after)) => like(line, first) && stands_for(rest, after),
            None => false,
        },
    }
}

fn like(shown: &str, said: &str) -> bool {
    let mut pieces = shown.trim_end().split("[..]");
    let Some(mut rest) = pieces.next().and_then(|first| said.trim_end().strip_prefix(first)) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A command of a block, the place of its line among the page's (from 0), and what is shown below it.
struct Shown {
    command: String,
    at: usize,
    lines: Vec<String>,
}

fn commands(block: &Block) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    for (at, line) in block.lines.iter().enumerate() {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => {
                found.push(Shown { command: command.to_owned(), at: block.line - 1 + at, lines: Vec::new() });
            }
            (None, Some(last)) => last.lines.push(line.clone()),
            (None, None) => panic!("line {}: a console block begins with a command: $ thruway …", block.line),
        }
    }
    found
}

/// Both streams, in the order of the page: what is printed, then what is said beside it.
fn run(command: &str, dir: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_thruway"));
    let path = format!("{}:/usr/bin:/bin", program.parent().expect("a folder").display());
    let output = Command::new("bash")
        .args(["-c", command])
        .current_dir(dir)
        .env_clear()
        .envs([("PATH", path.as_str()), ("NO_COLOR", "1"), ("LC_ALL", "C.UTF-8"), ("HOME", "/nonexistent")])
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    format!("{}{}", stdout(&output), stderr(&output))
}

#[test]
fn console_blocks_print_what_they_show() {
    let update = std::env::var_os("HANDBOOK").is_some_and(|word| word == "update");
    let (mut wrong, mut ran) = (Vec::new(), 0);
    for (name, text) in texts() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut new: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut changed = false;
        let blocks: Vec<Block> = parts(&text).0.into_iter().filter(|block| block.kind == "console").collect();
        let all: Vec<Shown> = blocks.iter().flat_map(commands).collect();
        let mut said = Vec::new();
        for shown in &all {
            let first = shown.command.split_whitespace().next().unwrap_or_default();
            assert!(
                RUNS.contains(&first),
                "docs/{name}: {}: {first} is not run here; write a ```sh block",
                shown.command
            );
            said.push(run(&shown.command, dir.path()));
            ran += 1;
        }
        // from the end, so that places stay what they are
        for (shown, said) in all.iter().zip(&said).rev() {
            let is: Vec<&str> = said.trim_end().lines().map(str::trim_end).collect();
            let text = shown.lines.join("\n");
            let wanted: Vec<&str> = text.trim_end().lines().collect();
            if stands_for(&wanted, &is) {
                continue;
            }
            if update {
                let lines = is.iter().map(|line| (*line).to_owned());
                new.splice(shown.at + 1..shown.at + 1 + shown.lines.len(), lines);
                changed = true;
            } else {
                wrong.push(format!(
                    "docs/{name}:{}: $ {}\n--- shown\n{text}\n--- printed\n{said}",
                    shown.at + 1,
                    shown.command
                ));
            }
        }
        if changed {
            std::fs::write(docs().join(&name), new.join("\n") + "\n").expect("the page");
        }
    }
    println!("{ran} commands of the handbook were run");
    assert!(ran > 20, "{ran}: the reader finds no commands any more");
    assert!(wrong.is_empty(), "{}\nHANDBOOK=update cargo test -p thruway --test handbook", wrong.join("\n\n"));
}

#[test]
fn elisions_are_no_more_than_elisions() {
    let said = ["one", "two words here", "three"];
    assert!(stands_for(&["one", "...", "three"], &said));
    assert!(stands_for(&["...", "two [..] here", "three"], &said));
    assert!(stands_for(&["..."], &said));
    for bad in [&["one", "three"][..], &["...", "two"], &["one", "two [..] there", "three"], &["one", "two words here"]]
    {
        assert!(!stands_for(bad, &said), "{bad:?}");
    }
}

#[test]
fn the_page_of_commands_is_current() {
    let now = stdout(&thruway(&["commands"]));
    let page = std::fs::read_to_string(docs().join("commands.md")).expect("docs/commands.md");
    assert!(now.contains("## thruway host bind"), "{now}");
    assert_eq!(page, now, "docs/commands.md is old: thruway commands > docs/commands.md");
    let node = Path::new(env!("CARGO_BIN_EXE_thruway")).with_file_name("thruway-node");
    if !node.exists() {
        println!("SKIP: thruway-node is not built, so its verbs are not compared: cargo build -p thruway-node");
        return;
    }
    let help = Command::new(node).arg("--help").output().expect("thruway-node");
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let help = flat(&stdout(&help));
    let verbs = now.split("| verb | |").nth(1).expect("the agent's verbs");
    let rows: Vec<&str> = verbs.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 8, "{rows:?}");
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let wanted = format!("{} {}", cells[1].trim_matches('`'), cells[2]);
        assert!(help.contains(&wanted), "thruway-node says nothing of: {wanted}\n{help}");
    }
}

/// The examples for fleets: YAML is read by the reader of this house, and its thruway lines by the grammar. Terraform's language
/// has no reader here: quotes and brackets are counted, and no more.
#[test]
fn examples_are_well_formed() {
    let dir = docs().join("examples");
    let (mut seen, mut lines) = (0, 0);
    for entry in std::fs::read_dir(&dir).expect("docs/examples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("an example");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        match path.extension().and_then(|ext| ext.to_str()) {
            Some("yml" | "yaml") => {
                let documents = formats::yamlin::parse_all(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(!documents.is_empty(), "{name} is empty");
            }
            Some("tf") => {
                let code: String = text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect();
                assert_eq!(code.matches('"').count() % 2, 0, "{name}: a quote is open");
                for (open, close) in [('{', '}'), ('[', ']'), ('(', ')')] {
                    assert_eq!(code.matches(open).count(), code.matches(close).count(), "{name}: {open}{close}");
                }
            }
            _ => continue,
        }
        seen += 1;
        // variables as what they stand for, an argv list as the line that it is
        let stand: [(&str, &str); 4] = [
            ("{{ gpu }}", "26:00.0"),
            ("{{ gpu_vm }}", "vm:100"),
            ("${var.card}", "26:00.0"),
            ("${var.endpoint}", "https://192.0.2.10:8006"),
        ];
        let text = stand.iter().fold(text, |text, (from, to)| text.replace(from, to));
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let line = match line.split_once("argv: [") {
                Some((_, list)) => list.trim_end_matches(']').replace(", ", " "),
                None => line
                    .find("thruway ")
                    .map(|at| line[at..].trim_end_matches(['"', '\'']).to_owned())
                    .unwrap_or_default(),
            };
            let Some(words) = words(&line) else { continue };
            assert_eq!(refused(&words, true), None, "{name}: {line}");
            lines += 1;
        }
    }
    assert!(seen >= 3 && lines >= 9, "{seen} examples, {lines} lines of thruway in them");
}
