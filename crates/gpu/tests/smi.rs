//! nvidia-smi's forms against what the tool itself printed on a real H100 (driver 580, in a VM): its XML read as a report,
//! and that report printed, is the same bytes again; so are the words, the table, -L and the fields of a query, as far as
//! the moment of measuring was the same.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "reads fixtures")]

use gpu::smi::{Apps, Format, Query, Smi};
use machine::nvml::{Depth, NvmlReport};
use model::Seen;

const TIME: &str = "Wed Nov 25 16:59:28 2026";

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/fixtures/h100-smi/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The report that the XML makes, as field notes give it.
fn report() -> NvmlReport {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("q.xml"), fixture("q.xml")).expect("writes");
    let notes = machine::capture::open(dir.path()).expect("notes");
    match machine::nvml::ask(&notes, Depth::All) {
        Seen::Is(report) => report,
        other => panic!("no report: {other:?}"),
    }
}

fn smi(report: &NvmlReport) -> Smi<'_> {
    Smi { report, only: None, time: TIME, stamp: "2026/11/25 16:59:28.500" }
}

fn differing(ours: &str, theirs: &str) -> Vec<(String, String)> {
    assert_eq!(ours.lines().count(), theirs.lines().count(), "another number of lines:\n{ours}");
    ours.lines().zip(theirs.lines()).filter(|(a, b)| a != b).map(|(a, b)| (a.trim().into(), b.trim().into())).collect()
}

#[test]
fn xml_read_and_printed_is_the_same_bytes() {
    let report = report();
    assert_eq!(smi(&report).xml(), fixture("q.xml"));
}

/// Measured anew by each of the tool's runs.
fn measured(line: &str) -> bool {
    ["Throughput", "Power Draw"].iter().any(|name| line.contains(name))
}

#[test]
fn words_are_the_same_but_for_what_was_measured_anew() {
    let report = report();
    let others = differing(&smi(&report).log(), &fixture("q.txt"));
    let wrong: Vec<_> = others.iter().filter(|(line, _)| !measured(line)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(others.len() <= 4, "{others:#?}");
}

#[test]
fn the_table_and_the_list_are_the_same() {
    let report = report();
    // 123 W and not 124: the tool measured again
    let ours = gpu::smi::table(&smi(&report)).replace("124W /  700W", "123W /  700W");
    assert_eq!(ours, fixture("smi.txt"));
    assert_eq!(gpu::smi::devices(&smi(&report)), fixture("L.txt"));
}

#[test]
fn a_query_is_the_same_but_for_what_the_xml_does_not_hold() {
    let report = report();
    let theirs = fixture("query.csv");
    let (head, row) = theirs.split_once('\n').expect("two lines");
    let names: Vec<&str> = head.split(", ").map(|name| name.split(" [").next().unwrap_or(name)).collect();
    let format = Format::parse(Some("csv")).expect("a format");
    let query = Query::parse(&names.join(",")).expect("fields that are known");
    assert_eq!(query.header(&smi(&report), format).trim_end(), head);
    let ours = query.rows(&smi(&report), format);
    let mut compared = 0;
    for (name, (ours, theirs)) in names.iter().zip(ours.trim_end().split(", ").zip(row.trim_end().split(", "))) {
        match *name {
            // the XML does not tell the compute capability; power was measured anew
            "compute_cap" | "power.draw" => continue,
            name => assert_eq!(ours, theirs, "{name}"),
        }
        compared += 1;
    }
    assert_eq!(compared, names.len() - 2);
    let bare = Format::parse(Some("csv,noheader,nounits")).expect("a format");
    let memory = Query::parse("memory.total,fan.speed,temperature.gpu").expect("fields");
    assert_eq!(memory.header(&smi(&report), bare) + &memory.rows(&smi(&report), bare), "81559, [N/A], 38\n");
}

#[test]
fn what_is_not_known_is_refused_in_the_tools_words() {
    let words = |result: Result<Query, gpu::smi::QueryError>| result.err().map(|error| error.0);
    assert_eq!(words(Query::parse("name,foo")).as_deref(), Some("Field \"foo\" is not a valid field to query.\n\n"));
    assert_eq!(words(Query::parse("index,,uuid")), None, "an empty name is passed over");
    assert!(Apps::parse("pid,process_name,used_memory").is_ok() && Apps::parse("pid,gpu").is_err());
    for wrong in [None, Some("csvv"), Some("noheader")] {
        assert!(Format::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_report_of_strangers_stays_on_its_lines() {
    let mut report = report();
    let gpu = report.gpus.first_mut().expect("a card");
    gpu.name = Seen::Is("evil\n<card>\u{1b}[2J & co".into());
    let text = gpu::smi::table(&smi(&report)) + &gpu::smi::devices(&smi(&report)) + &smi(&report).log();
    assert!(!text.contains('\u{1b}') && !text.contains("evil\n"), "{text}");
    let xml = smi(&report).xml();
    assert!(xml.contains("evil?&lt;card&gt;?[2J &amp; co"), "{xml}");
    for version in ["", "x", "470.1", "525", "535.1", "550.2", "575.1", "610.57.04", "99999999999.1"] {
        report.driver_version = Seen::Is(version.into());
        let table = gpu::smi::table(&smi(&report));
        let widths: std::collections::BTreeSet<usize> =
            table.lines().skip(1).filter(|line| !line.trim().is_empty()).map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 1, "{version}: {table}");
        let _ = (smi(&report).log(), smi(&report).xml());
    }
    report.driver_version = Seen::Is("610.57.04".into());
    let table = gpu::smi::table(&smi(&report));
    let title = "| NVIDIA-SMI 610.57.04              KMD Version: 610.57.04     CUDA UMD Version: 13.0     |";
    assert_eq!(table.lines().nth(2), Some(title));
}
