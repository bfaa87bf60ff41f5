//! Our inventory against `lspci` and `ldconfig` on the machine that runs the tests.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the oracle is another program on this machine"
)]

use std::process::Command;

use formats::ldsocache::Cache;
use machine::{Machine as _, Root};

/// (address, class, vendor:device, driver) of each function.
type Row = (String, String, String, Option<String>);

/// `0000:00:03.0 0200: 1af4:1041 (rev 01)`, then indented lines of which one may say the driver in use.
fn rows(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        if let Some(driver) = line.trim().strip_prefix("Kernel driver in use: ") {
            if let Some(row) = rows.last_mut() {
                row.3 = Some(driver.to_owned());
            }
        } else if !line.starts_with(['\t', ' ']) && !line.is_empty() {
            let mut words = line.split_whitespace();
            let mut word = || words.next().unwrap_or_default().to_owned();
            rows.push((word(), word().trim_end_matches(':').to_owned(), word(), None));
        }
    }
    rows
}

#[test]
fn lspci_sees_the_same_functions() {
    let Ok(output) = Command::new("lspci").args(["-D", "-n", "-k"]).env("LC_ALL", "C").output() else {
        eprintln!("SKIP: lspci is not installed");
        return;
    };
    let theirs = rows(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() || theirs.is_empty() {
        eprintln!("SKIP: lspci found no PCI bus: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let inventory = gpu::observe(&Root::live().expect("the root directory"));
    let ours: Vec<Row> = inventory
        .functions
        .iter()
        .map(|function| {
            let class = format!("{:04x}", function.class >> 8);
            (function.bdf.to_string(), class, function.id.to_string(), function.driver.get().cloned())
        })
        .collect();
    assert_eq!(ours, theirs);
}

#[test]
fn ldconfig_lists_the_same_libraries() {
    let root = Root::live().expect("the root directory");
    let Some(bytes) = root.read("/etc/ld.so.cache").is() else {
        eprintln!("SKIP: this machine has no /etc/ld.so.cache");
        return;
    };
    let output = ["/sbin/ldconfig", "ldconfig"].iter().find_map(|program| {
        Command::new(program).arg("-p").env("LC_ALL", "C").output().ok().filter(|output| output.status.success())
    });
    let Some(output) = output else {
        eprintln!("SKIP: ldconfig does not run here");
        return;
    };
    let theirs = Cache::from_listing(&String::from_utf8_lossy(&output.stdout)).expect("ldconfig's own text");
    let ours = Cache::parse(&bytes).expect("the machine's own cache");
    let key = |cache: &Cache| -> Vec<_> {
        cache.entries.iter().map(|e| (e.soname.clone(), e.path.clone(), e.arch(), e.hwcaps.clone())).collect()
    };
    assert_eq!(key(&ours), key(&theirs));
    assert_eq!(ours.generator, theirs.generator);
    // Written by us, it is in the order that the loader needs: ldconfig's own.
    assert_eq!(key(&Cache::parse(&ours.to_bytes()).expect("our bytes")), key(&theirs));
}
