//! Every file of tests/corpus: read and printed the same, each edit only its own lines, each edit taken back the same
//! bytes. The files were written for these tests, after the formats' own documentation.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "reads the corpus")]

use std::path::{Path, PathBuf};

use formats::domxml::{Domain, NewHostDev};
use formats::propstr::PropStr;
use formats::pveconf::Conf;
use formats::pvesections::SectionFile;
use model::Bdf;
use proptest::prelude::*;

/// The files of one directory, by name.
fn corpus(dir: &str, least: usize) -> Vec<(String, Vec<u8>)> {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(dir);
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(&dir)
        .expect("the corpus")
        .map(|entry| {
            let entry = entry.expect("a file");
            (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("a file"))
        })
        .collect();
    files.sort();
    assert!(files.len() >= least, "{} files in {}", files.len(), dir.display());
    files
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The lines that are gone and that have come, front and back left out; line ends do not count, so that a file's last
/// line without one is no change when a line follows it.
fn diff(before: &str, after: &str) -> (Vec<String>, Vec<String>) {
    fn lines(text: &str) -> Vec<String> {
        text.split_inclusive('\n').map(|line| line.trim_end_matches(['\r', '\n']).to_owned()).collect()
    }
    let (old, new) = (lines(before), lines(after));
    let front = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let most = old.len().min(new.len()) - front;
    let back = old.iter().rev().zip(new.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
    (old[front..old.len() - back].to_vec(), new[front..new.len() - back].to_vec())
}

#[test]
fn confs_print_as_they_were_read() {
    for (name, bytes) in corpus("pve", 40) {
        let conf = Conf::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(conf.print(), bytes, "{name}");
        for entry in conf.current().chain(conf.pending()) {
            assert_eq!(PropStr::parse(entry.value).to_string(), entry.value, "{name}:{}", entry.line);
        }
    }
}

#[test]
fn a_conf_edit_is_one_line_and_its_undo_is_the_same_bytes() {
    let edits = [
        ("hostpci0", "0000:26:00,pcie=1,rombar=0"),
        ("hostpci7", "mapping=gpu0,pcie=1"),
        ("machine", "pc-q35-9.2"),
        ("bios", "ovmf"),
        ("balloon", "0"),
        ("zzz", "last"),
        ("args", "-fw_cfg name=opt/ovmf/X-PciMmio64Mb,string=65536"),
        ("memory", "current=4096"),
    ];
    let mut changed = 0;
    for (name, bytes) in corpus("pve", 40) {
        let before = text(&bytes);
        for (key, value) in edits {
            let mut conf = Conf::parse(&bytes).expect("UTF-8");
            let old = conf.get(key).map(|entry| entry.value.to_owned());
            conf.set(key, value);
            let printed = conf.print();
            let (gone, come) = diff(before, text(&printed));
            match &old {
                Some(old) if old == value => assert!(gone.is_empty() && come.is_empty(), "{name} {key}"),
                Some(old) => {
                    assert_eq!((gone.len(), come.len()), (1, 1), "{name} {key}: {gone:?} {come:?}");
                    assert_eq!(gone[0].replacen(old.as_str(), value, 1), come[0], "{name} {key}");
                }
                None => assert_eq!((gone, come), (vec![], vec![format!("{key}: {value}")]), "{name} {key}"),
            }
            let again = Conf::parse(&printed).expect("UTF-8");
            assert_eq!(again.get(key).map(|entry| entry.value), Some(value), "{name} {key}");
            // what waits and what is kept of older states is not the edit's business
            let original = Conf::parse(&bytes).expect("UTF-8");
            assert_eq!(again.snapshots(), original.snapshots(), "{name} {key}");
            assert_eq!(again.pending_deletes(), original.pending_deletes(), "{name} {key}");
            changed += 1;
            match old {
                Some(old) => assert!(conf.set(key, &old), "{name} {key}"),
                None => assert!(conf.remove(key), "{name} {key}"),
            }
            assert_eq!(text(&conf.print()), before, "{name} {key}: undone");
        }
    }
    assert!(changed >= 40 * edits.len());
}

#[test]
fn a_property_edit_keeps_the_others_as_they_stand() {
    for (name, bytes) in corpus("pve", 40) {
        let conf = Conf::parse(&bytes).expect("UTF-8");
        let lines: Vec<_> = conf.current().filter(|entry| entry.key.starts_with("hostpci")).collect();
        for entry in lines {
            let before = entry.value;
            let mut props = PropStr::parse(before);
            if props.get("rombar").is_some() || props.is_empty() {
                continue;
            }
            props.set("rombar", "0");
            assert_eq!(props.to_string(), format!("{before},rombar=0"), "{name}:{}", entry.line);
            assert!(props.remove("rombar"));
            assert_eq!(props.to_string(), before, "{name}:{}", entry.line);
        }
    }
}

#[test]
fn every_hostpci_option_is_in_the_corpus_and_read() {
    let all: Vec<Conf> = corpus("pve", 40).iter().map(|(_, bytes)| Conf::parse(bytes).expect("UTF-8")).collect();
    let has = |key: &str| {
        let lines = all.iter().flat_map(Conf::current).filter(|entry| entry.key.starts_with("hostpci"));
        lines.map(|entry| PropStr::parse(entry.value)).any(|props| props.get(key).is_some())
    };
    for key in [
        "host",
        "mapping",
        "pcie",
        "x-vga",
        "rombar",
        "romfile",
        "mdev",
        "legacy-igd",
        "vendor-id",
        "device-id",
        "sub-vendor-id",
        "sub-device-id",
        "driver",
    ] {
        assert!(has(key), "no file has {key}");
    }
    assert!(all.iter().any(|conf| conf.get("hostpci15").is_some()), "no file has sixteen");
    assert!(all.iter().filter(|conf| !conf.snapshots().is_empty()).count() >= 3);
    assert!(all.iter().filter(|conf| !conf.pending().is_empty()).count() >= 2);
    assert!(all.iter().any(|conf| conf.pending_deletes() == ["hostpci0", "unused0"]));
}

#[test]
fn mappings_print_and_edit_line_by_line() {
    for (name, bytes) in corpus("mapping", 5) {
        let file = SectionFile::parse(&bytes).expect("UTF-8");
        let before = text(&bytes);
        assert_eq!(file.print(), before, "{name}");
        for section in file.sections() {
            let mut more = file.clone();
            let map = "node=c,path=0000:81:00,id=10de:2684,iommugroup=7";
            let line = more.add(&section.id, "map", map).unwrap_or_else(|| panic!("{name}: {}", section.id));
            let (gone, come) = diff(before, more.print());
            assert_eq!((gone.len(), come.len()), (0, 1), "{name}: {come:?}");
            let after = more.sections();
            let grown = after.iter().find(|one| one.line == section.line).expect("the same section");
            assert_eq!(grown.props.last(), Some(&("map".to_owned(), map.to_owned(), line)), "{name}");
            assert!(more.remove_line(line), "{name}:{line}");
            assert_eq!(more.print(), before, "{name}: undone");
            for (key, value, line) in &section.props {
                let mut changed = file.clone();
                assert!(changed.set_line(*line, "new"), "{name}:{line}");
                let (gone, come) = diff(before, changed.print());
                assert_eq!((gone.len(), come.len()), (1, 1), "{name}:{line} {key}");
                if !value.is_empty() {
                    assert!(changed.set_line(*line, value), "{name}:{line}");
                    assert_eq!(changed.print(), before, "{name}:{line}: undone");
                }
            }
        }
        let mut odd = file.clone();
        assert!(!odd.set_line(999, "x") && !odd.remove_line(0) && odd.add("none", "map", "x").is_none());
        assert!(
            odd.sections().first().is_none_or(|one| !file.clone().set_line(one.line, "x")),
            "a header is no property"
        );
        assert_eq!(odd.print(), before);
    }
    let cluster = text(include_bytes!("corpus/mapping/02-cluster.cfg")).to_owned();
    let mut injected = SectionFile::parse(cluster.as_bytes()).expect("UTF-8");
    assert!(!injected.set_line(2, "a\nb") && injected.add("gpu0", "map", "a\n\tmdev 1").is_none());
    assert!(injected.add("gpu0", "#x", "a").is_none() && injected.add("gpu0", "a b", "c").is_none());
}

#[test]
fn a_section_ends_where_proxmox_ends_it() {
    let file = include_bytes!("corpus/mapping/03-spaces-and-comments.cfg");
    let found = formats::pvesections::sections(text(file));
    let names: Vec<_> = found.iter().map(|one| (one.id.as_str(), one.line, one.props.len())).collect();
    // the orphan follows an empty line, and the stray header does not
    assert_eq!(names, [("gpu0", 2, 2), ("gpu1", 9, 1)]);
}

#[test]
fn domains_print_as_they_were_read() {
    for (name, bytes) in corpus("domxml", 20) {
        let domain = Domain::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(domain.text(), text(&bytes), "{name}");
        for one in &domain.hostdevs {
            let line = text(&bytes).split('\n').nth(one.line as usize - 1).unwrap_or_default();
            assert!(line.contains("<hostdev"), "{name}:{}: {line}", one.line);
        }
    }
}

#[test]
fn a_domain_edit_adds_its_lines_and_its_undo_is_the_same_bytes() {
    let bdf = |function| Bdf::new(0, 0x81, 0, function);
    for (name, bytes) in corpus("domxml", 20) {
        let domain = Domain::parse(&bytes).expect("a domain");
        let port = domain.next_index();
        let new = [
            NewHostDev { source: bdf(0), guest: Some((port, 0, 0)), multifunction: true },
            NewHostDev { source: bdf(1), guest: Some((port, 0, 1)), multifunction: false },
        ];
        let after = domain.with(Some(port), &new).unwrap_or_else(|| panic!("{name}: no devices"));
        let (gone, come) = diff(domain.text(), &after);
        if name != "25-one-line.xml" {
            assert_eq!(gone, Vec::<String>::new(), "{name}");
            assert_eq!(come.len(), 13, "{name}: {come:?}");
        }
        let again = Domain::parse(after.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again.hostdevs.len(), domain.hostdevs.len() + 2, "{name}");
        assert_eq!(again.without_port(port), after, "{name}: a port in use stays");
        let bare = Domain::parse(again.without(&[bdf(0), bdf(1)]).as_bytes()).expect("a domain");
        assert_eq!(bare.without_port(port), domain.text(), "{name}: undone");
        // and the card that was there goes with its lines alone
        let sources: Vec<Bdf> = domain.hostdevs.iter().map(|one| one.source).collect();
        let less = domain.without(&sources);
        let kept: String = less.split_whitespace().collect();
        assert!(!kept.contains("<source><addressdomain"), "{name}: {less}");
        assert!(less.len() <= domain.text().len(), "{name}");
        assert!(Domain::parse(less.as_bytes()).expect("a domain").hostdevs.is_empty(), "{name}");
    }
}

#[test]
fn what_a_domain_says_is_read_whatever_stands_around_it() {
    let domain = |name: &str| {
        let files = corpus("domxml", 20);
        let found = files.iter().find(|(file, _)| file.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
        Domain::parse(&found.1).expect("a domain")
    };
    let card = Bdf::new(0, 0x26, 0, 0);
    for name in ["16-", "17-", "18-", "20-", "21-", "22-", "26-", "28-"] {
        assert_eq!(domain(name).hostdevs.first().map(|one| one.source), Some(card), "{name}");
    }
    assert_eq!(domain("16-").hostdevs.len(), 1, "neither CDATA nor a comment is an element");
    assert_eq!(domain("17-").hostdevs.len(), 2);
    assert_eq!(domain("27-").hostdevs.len(), 0, "a mediated device has no address of the host");
    assert_eq!(domain("15-").memory_mib, Some(8192));
    let pages = domain("11-");
    assert_eq!(pages.line_of("memory"), Some(4));
    assert_eq!(
        (pages.hugepages_kib, pages.hard_limit_mib, pages.nodeset.as_deref()),
        (Some(1 << 20), Some(10240), Some("0"))
    );
    assert_eq!((domain("13-").phys_bits, domain("14-").viommu.as_deref()), (Some(39), Some("intel")));
    let rom = domain("05-").hostdevs.first().and_then(|one| one.romfile.clone());
    assert_eq!(rom.as_deref(), Some("/usr/share/vgabios/gt1030.rom"));
    assert!(domain("09-").is_uefi() && !domain("10-").is_q35());
}

proptest! {
    #[test]
    fn section_files_never_panic(text in "([a-z0-9#:= ;\r\n\t,]|\\PC){0,200}", line in 0u32..12, value in "\\PC{0,12}") {
        // a carriage return at the end of a file without its line feed: with a line behind it, it is a line end
        prop_assume!(!text.ends_with('\r'));
        let mut file = SectionFile::parse(text.as_bytes()).expect("UTF-8");
        prop_assert_eq!(file.print(), text.as_str());
        file.set_line(line, &value);
        file.remove_line(line);
        let ids: Vec<String> = file.sections().into_iter().map(|one| one.id).collect();
        for id in ids {
            let before = file.print().to_owned();
            if let Some(line) = file.add(&id, "map", &value) {
                prop_assert!(file.remove_line(line), "{before:?}");
                prop_assert_eq!(file.print(), before);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(file) = SectionFile::parse(&bytes) {
            prop_assert_eq!(file.print().as_bytes(), bytes);
            let _ = file.sections();
        }
    }
}
