//! `thruway stress` and `thruway codecs` on a live machine whose driver libraries are simulated: their own dlopen, with a
//! box's sysfs mounted where the kernel's would be. Root and mount namespaces, or SKIP.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;
#[path = "common/live.rs"]
mod live;

use std::ops::Deref;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{stderr, stdout};
use live::namespaces;
use serde_json::Value;

/// A live machine with all of the driver's simulated libraries.
struct Live(live::Live);

impl Deref for Live {
    type Target = live::Live;

    fn deref(&self) -> &live::Live {
        &self.0
    }
}

/// A single multiprocessor and little memory: what a CPU does in a moment.
const SMALL: &str = "[[gpus]]\nindex = 0\ncuda_mib = 8\nset = { multiprocessors = 1 }\n";

impl Live {
    fn new(tree: &str, name: &str) -> Live {
        Live(live::Live::whole(tree, name))
    }

    /// A run of stress and its report.
    fn stress(&self, more: &[&str]) -> (Option<i32>, Value) {
        let output = self.thruway(&[&["stress", "--for", "1s", "--json"], more].concat());
        let report = serde_json::from_str(&stdout(&output));
        (output.status.code(), report.unwrap_or_else(|_| panic!("{}{}", stdout(&output), stderr(&output))))
    }
}

#[test]
fn a_card_that_is_well_computes_right() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "gt1030");
    live.control(SMALL);
    let (code, report) = live.stress(&[]);
    assert_eq!((code, &report["verdict"]), (Some(0), &Value::from("right")), "{report:#}");
    let tally = &report["tally"];
    assert!(tally["memory"].as_u64() > Some(7 << 20), "nine tenths of 8 MiB: {tally:#}");
    for work in ["bytes", "integer_ops", "float_ops"] {
        assert!(tally[work].as_u64() > Some(1 << 20), "{work}: {tally:#}");
    }
    assert_eq!(report["peak"]["compute_capability"], serde_json::json!([6, 1]));
    // the same kernels with a wrong constant each: the PTX is what is run, and its faults are found
    let (code, report) = live.stress(&["--break-kernel"]);
    assert_eq!((code, &report["verdict"]), (Some(1), &Value::from("wrong")));
    for kind in ["memory_errors", "integer_errors", "float_errors"] {
        assert!(report["tally"][kind].as_u64() > Some(0), "{kind}: {report:#}");
    }
}

#[test]
fn bad_cells_and_wrong_results_are_found() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "gt1030");
    // the third MiB is in the tested field, whose first byte is not the card's first
    live.control(&SMALL.replace("set =", "flips = [{ byte = 3145729, bit = 4 }]\nset ="));
    let (code, report) = live.stress(&[]);
    let tally = &report["tally"];
    assert_eq!((code, &report["verdict"]), (Some(1), &Value::from("wrong")), "{report:#}");
    assert!(tally["memory_errors"].as_u64() > Some(0) && tally["integer_errors"] == 0, "{tally:#}");
    assert_eq!(tally["first_memory_error"].as_u64().map(|at| at % 16), Some(0));
    live.control(&SMALL.replace("set =", "wrong_bits = 4096\nset ="));
    let (code, report) = live.stress(&[]);
    assert_eq!(code, Some(1), "{report:#}");
    assert!(report["tally"]["integer_errors"].as_u64() > Some(0), "{report:#}");
    // with ECC one bad bit of a word is corrected, and two end the work
    let live = Live::new("guest-good", "t4");
    let small = SMALL.replace("set =", "flips = [{ byte = 3145729, bit = 4 }]\nset =");
    live.control(&small);
    assert_eq!(live.stress(&[]).0, Some(0));
    live.control(&small.replace("bit = 4 }", "bit = 4 }, { byte = 3145730, bit = 1 }"));
    let (code, report) = live.stress(&[]);
    assert_eq!((code, &report["verdict"]), (Some(1), &Value::from("lost")), "{report:#}");
    assert!(report["tally"]["lost"].as_str().is_some_and(|lost| lost.contains("CUDA_ERROR_ECC_UNCORRECTABLE (214)")));
}

#[test]
fn a_card_that_is_lost_in_the_middle_is_said_to_be() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "gt1030");
    live.control(SMALL);
    let child = live
        .command(&["stress", "--for", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare, of util-linux");
    std::thread::sleep(Duration::from_millis(2500));
    live.control(&SMALL.replace("set =", "lost = true\nxids = [79]\nset ="));
    let output = child.wait_with_output().expect("ends");
    let text = stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(&output));
    assert!(text.contains("LOST after"), "{text}");
    assert!(text.contains("CUDA_ERROR_LAUNCH_FAILED (719)") && text.contains("thruway explain"), "{text}");
}

#[test]
fn a_stop_is_obeyed() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "gt1030");
    live.control(SMALL);
    let child = live
        .command(&["stress", "--for", "60s", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare, of util-linux");
    std::thread::sleep(Duration::from_millis(2500));
    // sh became thruway by exec: one process
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    let output = child.wait_with_output().expect("ends");
    let report: Value = serde_json::from_str(&stdout(&output)).expect("a report");
    assert_eq!((output.status.code(), &report["tally"]["stopped"]), (Some(0), &Value::from(true)), "{report:#}");
    assert!(report["tally"]["seconds"].as_f64() < Some(20.0));
}

#[test]
fn what_cannot_start_says_why() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "gt1030");
    for (control, words) in [
        ("kernel = '470.1.2'", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"),
        ("fail = { cuInit = 100 }", "CUDA_ERROR_NO_DEVICE (100)"),
        ("fail = { cuMemAlloc = 2 }", "CUDA_ERROR_OUT_OF_MEMORY (2)"),
        ("fail = { cuModuleLoadDataEx = 222 }", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)"),
    ] {
        live.control(control);
        let output = live.thruway(&["stress", "--for", "1s"]);
        assert_eq!(output.status.code(), Some(2), "{control}");
        assert!(stderr(&output).contains(words), "{control}: {}", stderr(&output));
    }
}

/// Two H100, small: a CPU does their work.
const TWO_SMALL: &str = "[[gpus]]\nindex = 0\ncuda_mib = 8\nset = { multiprocessors = 1 }\n\
                         [[gpus]]\nindex = 1\ncuda_mib = 8\nset = { multiprocessors = 1 }\n";

/// What is said of the way from one card to another.
fn way<'a>(report: &'a Value, from: &str, to: &str) -> &'a Value {
    let pairs = report["links"]["pairs"].as_array().expect("pairs");
    let one = pairs.iter().find(|pair| pair["from"] == from && pair["to"] == to);
    one.unwrap_or_else(|| panic!("from {from} to {to}: {report:#}"))
}

const A: &str = "0000:1B:00.0";
const B: &str = "0000:43:00.0";

#[test]
fn two_cards_work_at_once_and_what_goes_between_them_arrives() {
    if !namespaces() {
        return;
    }
    let live = Live(live::Live::several("eight-gpu", "h100x2"));
    live.control(TWO_SMALL);
    let (code, report) = live.stress(&[]);
    assert_eq!((code, &report["verdict"]), (Some(0), &Value::from("right")), "{report:#}");
    let cards = report["cards"].as_array().expect("cards");
    assert!(cards.len() == 2 && cards.iter().all(|card| card["verdict"] == "right"), "{report:#}");
    assert!(cards.iter().all(|card| card["tally"]["integer_ops"].as_u64() > Some(1 << 20)), "{report:#}");
    for (from, to) in [(A, B), (B, A)] {
        let way = way(&report, from, to);
        assert_eq!((&way["way"], &way["peer"]), (&Value::from("NV18"), &Value::from(true)), "{way:#}");
        assert!(way["copies"].as_u64() > Some(3) && way["errors"] == 0 && way["slow"] == false, "{way:#}");
        assert_eq!(way["most"].as_f64().map(f64::round), Some(450e9), "{way:#}");
        // the simulated cards' clock says what a real way of this kind would take
        assert!(way["share"].as_f64().is_some_and(|share| (0.8..0.95).contains(&share)), "{way:#}");
    }
    // one of them, and none of the ways
    let (code, report) = live.stress(&["--gpu", "1"]);
    assert_eq!((code, &report["bdf"], report.get("links")), (Some(0), &Value::from(B), None), "{report:#}");
    let (code, report) = live.stress(&["--gpu", &format!("0,{B}"), "--no-links"]);
    assert_eq!((code, &report["links"]), (Some(0), &Value::Null), "{report:#}");
    assert_eq!(report["cards"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_bad_way_is_found_and_named() {
    if !namespaces() {
        return;
    }
    let live = Live(live::Live::several("eight-gpu", "h100x2"));
    let link = |words: &str| live.control(&format!("{TWO_SMALL}[[links]]\nfrom = 0\nto = 1\n{words}\n"));
    // one bit of each copy, one way
    link("flips = [{ byte = 70000, bit = 6 }]");
    let (code, report) = live.stress(&[]);
    assert_eq!((code, &report["verdict"]), (Some(1), &Value::from("wrong")), "{report:#}");
    let (bad, good) = (way(&report, A, B), way(&report, B, A));
    assert_eq!((&bad["errors"], &bad["first_error"], &good["errors"]), (&bad["copies"], &70000.into(), &0.into()));
    assert!(report["cards"].as_array().expect("cards").iter().all(|card| card["verdict"] == "right"), "{report:#}");
    let text = stdout(&live.thruway(&["stress", "--for", "1s"]));
    let line = text.lines().find(|line| line.contains(&format!("{A} to {B}"))).unwrap_or_default();
    assert!(line.contains("NV18") && text.contains("WRONG: "), "{text}");
    // a fifth of what it should be, a fourteenth of a link
    link("slow = 5");
    let (code, report) = live.stress(&[]);
    assert_eq!((code, &report["verdict"]), (Some(1), &Value::from("slow")), "{report:#}");
    assert_eq!((&way(&report, A, B)["slow"], &way(&report, B, A)["slow"]), (&true.into(), &false.into()));
    let text = stdout(&live.thruway(&["stress", "--for", "1s"]));
    assert!(text.contains("SLOW: less than 50 %"), "{text}");
    // through the host: said, and not judged
    link("peer = false");
    let (code, report) = live.stress(&[]);
    let host = way(&report, A, B);
    assert_eq!((code, &host["peer"], &host["slow"]), (Some(0), &false.into(), &false.into()), "{report:#}");
    assert!(host["bandwidth"].as_f64() < Some(63e9), "{host:#}");
    assert!(stdout(&live.thruway(&["stress", "--for", "1s"])).contains("through the host: no peer access"));
    // the kernels' faults are found over the ways too
    live.control(TWO_SMALL);
    let (code, report) = live.stress(&["--break-kernel"]);
    assert_eq!((code, &report["links"]["verdict"]), (Some(1), &Value::from("wrong")), "{report:#}");
}

#[test]
fn a_copy_that_cannot_be_made_is_no_silence() {
    if !namespaces() {
        return;
    }
    let live = Live(live::Live::several("eight-gpu", "h100x2"));
    live.control(&format!("fail = {{ cuMemcpyPeerAsync = 1 }}\n{TWO_SMALL}"));
    let (code, report) = live.stress(&[]);
    assert_eq!((code, &report["verdict"]), (Some(1), &Value::from("wrong")), "{report:#}");
    let failed = way(&report, B, A)["failed"].as_str().expect("words").to_owned();
    assert_eq!(failed, "cuMemcpyPeerAsync: CUDA_ERROR_INVALID_VALUE (1)");
    // a link that breaks is the card's end, and what comes after is not measured
    live.control(&format!("fail = {{ cuMemcpyPeerAsync = 220 }}\n{TWO_SMALL}"));
    let (code, report) = live.stress(&[]);
    assert_eq!((code, &report["verdict"]), (Some(1), &Value::from("lost")), "{report:#}");
    assert_eq!(report["links"]["pairs"].as_array().map(Vec::len), Some(1));
    // as many peers as there can be: through the host
    live.control(&format!("fail = {{ cuCtxEnablePeerAccess = 711 }}\n{TWO_SMALL}"));
    assert_eq!(live.stress(&[]).1["links"]["pairs"][0]["peer"], false);
    // whether it can is asked too
    live.control(&format!("fail = {{ cuDeviceCanAccessPeer = 101 }}\n{TWO_SMALL}"));
    assert_eq!(live.stress(&[]).0, Some(1));
    // one card that cannot work leaves the other at it
    live.control(&TWO_SMALL.replacen("cuda_mib = 8", "cuda_mib = 0", 1));
    let (code, report) = live.stress(&[]);
    assert_eq!((code, &report["verdict"], &report["links"]), (Some(2), &"failed".into(), &Value::Null), "{report:#}");
    assert_eq!(report["cards"][1]["verdict"], "right");
    let none = live.thruway(&["stress", "--for", "1s", "--gpu", "0,7"]);
    assert!(stderr(&none).contains("no card is \"7\"; CUDA shows: 0000:1B:00.0, 0000:43:00.0"), "{}", stderr(&none));
}

/// The addresses are the tree's, so it has to be one with a card where the box has one.
#[test]
fn codecs_by_the_cards_own_word() {
    if !namespaces() {
        return;
    }
    for name in
        ["gt1030", "gtx1660", "rtx3090", "rtx4090", "t4", "a100", "h100", "rtx3090-535", "gt1030-470", "h100-mig"]
    {
        let live = Live::new("guest-good", name);
        let output = live.thruway(&["codecs"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}{}", stdout(&output), stderr(&output));
        insta::assert_snapshot!(format!("codecs_{name}"), stdout(&output));
    }
}

/// Two sources that know nothing of each other: the table by chip, and the cards' data out of dumps of real cards.
#[test]
fn the_table_by_chip_and_the_cards_agree() {
    if !namespaces() {
        return;
    }
    for name in ["gt1030", "gtx1660", "rtx3090", "rtx4090", "t4", "a100", "h100"] {
        let live = Live::new("guest-good", name);
        let report: Value = serde_json::from_str(&stdout(&live.thruway(&["codecs", "--json"]))).expect("JSON");
        let card = &report["cards"][0];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut asked = std::collections::BTreeMap::<String, Vec<u64>>::new();
        for row in list(&card["asked"]["is"]["decodes"]["is"]) {
            // the table has no JPEG, and one column of chroma is enough
            if row["codec"] != "jpeg" && row["chroma"] == "420" {
                let codec = row["codec"].as_str().expect("a codec").to_owned();
                asked.entry(codec).or_default().push(row["depth"].as_u64().expect("a depth"));
            }
        }
        let mut table = std::collections::BTreeMap::<String, Vec<u64>>::new();
        for row in list(&card["table"]["decodes"]) {
            let depths = list(&row["depths_420"]).iter().filter_map(Value::as_u64).collect();
            table.insert(row["codec"].as_str().expect("a codec").to_owned(), depths);
        }
        assert!(asked.len() >= 7);
        assert_eq!(asked, table, "{name}");
        let encodes = list(&card["asked"]["is"]["encodes"]["is"]);
        let words: Vec<&Value> = encodes.iter().map(|row| &row["codec"]).collect();
        let known = list(&card["table"]["encodes"]);
        assert_eq!(words, known.iter().collect::<Vec<_>>(), "{name}");
        for row in &encodes {
            assert_eq!(row["engines"], card["table"]["nvenc"], "{name}");
        }
    }
}

/// What a real H100 said through this very program, and what the simulated one says.
#[test]
fn the_h100s_codecs_are_those_of_a_real_one() {
    if !namespaces() {
        return;
    }
    let text = include_str!("../../gpu/tests/fixtures/h100-live/codecs.json");
    let real: Value = serde_json::from_str(text).expect("JSON");
    let live = Live::new("guest-good", "h100");
    let said: Value = serde_json::from_str(&stdout(&live.thruway(&["codecs", "--json"]))).expect("JSON");
    assert_eq!(said["cards"][0]["asked"], real["cards"][0]["asked"]);
    assert_eq!(said["nvenc_api"], real["nvenc_api"]);
}
