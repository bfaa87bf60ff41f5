//! Proxmox VE's machine files and libvirt's domains: a corpus, small edits, and random bytes.

use formats::domxml::{Domain, NewHostDev, NoRoom};
use formats::pveconf::{Conf, sections};
use model::Bdf;
use proptest::prelude::*;

macro_rules! corpus {
    ($dir:literal, $ext:literal, $($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("fixtures/", $dir, "/", $name, $ext)).as_slice())),*]
    };
}

const CONFS: [(&str, &[u8]); 17] = corpus!(
    "pve",
    ".conf",
    "01-as-found",
    "02-passed",
    "03-snapshots",
    "04-pending",
    "05-crlf",
    "06-no-last-line-end",
    "07-odd-spacing",
    "08-unknown-keys",
    "09-twice",
    "10-mapping",
    "11-args",
    "12-unsorted",
    "13-cloudinit",
    "14-empty",
    "15-garbage",
    "16-comment-between",
    "17-multi",
);

const DOMAINS: [(&str, &[u8]); 7] = corpus!(
    "domain",
    ".xml",
    "01-q35-efi",
    "02-passed",
    "03-i440fx",
    "04-crlf",
    "05-status",
    "06-namespaces",
    "07-bare",
);

fn conf(name: &str) -> Conf {
    let bytes = CONFS.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes).expect("in the corpus");
    Conf::parse(bytes).expect("UTF-8")
}

fn domain(name: &str) -> Domain {
    let bytes = DOMAINS.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes).expect("in the corpus");
    Domain::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The lines that only one of the two texts has: (gone, come).
fn diff(before: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let old: Vec<&str> = before.split_inclusive('\n').collect();
    let new: Vec<&str> = after.split_inclusive('\n').collect();
    let front = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let most = old.len().min(new.len()) - front;
    let back = old.iter().rev().zip(new.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
    let own = |lines: &[&str]| lines[front..lines.len() - back].iter().map(|line| (*line).to_owned()).collect();
    (own(&old), own(&new))
}

#[test]
fn confs_print_as_they_were_read() {
    for (name, bytes) in CONFS {
        let conf = Conf::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(conf.print(), bytes, "{name}");
    }
}

#[test]
fn only_the_main_part_is_current() {
    let old = conf("03-snapshots");
    assert_eq!(old.get("memory").map(|entry| (entry.value, entry.line)), Some(("2048", 2)));
    assert_eq!(old.get("hostpci0"), None);
    assert_eq!(old.snapshots(), ["before", "after"]);
    assert_eq!(old.description(), "");
    let twice = conf("09-twice");
    assert_eq!(twice.get("memory").map(|entry| (entry.value, entry.line)), Some(("1024", 3)));
    assert_eq!(conf("02-passed").description(), "The media guest\nhas the GT 1030");
    assert_eq!(conf("13-cloudinit").snapshots(), Vec::<&str>::new());
}

#[test]
fn pending_is_kept_apart() {
    let waits = conf("04-pending");
    let pending: Vec<_> = waits.pending().iter().map(|entry| (entry.key, entry.value, entry.line)).collect();
    assert_eq!(pending, [("hostpci1", "0000:02:00,pcie=1", 9), ("machine", "pc-q35-7.1", 10)]);
    assert_eq!(waits.pending_deletes(), ["hostpci0", "unused0", "balloon"]);
    assert_eq!(waits.get("machine").map(|entry| entry.value), Some("q35"));
    assert_eq!(conf("01-as-found").pending_deletes(), Vec::<String>::new());
}

#[test]
fn odd_lines_are_named_and_kept() {
    let odd = conf("15-garbage");
    let lines: Vec<u32> = odd.odd().iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(odd.get("key").map(|entry| entry.value), Some("v"));
    let spaced = conf("07-odd-spacing");
    assert_eq!(spaced.get("memory").map(|entry| entry.value), Some("512"));
    assert_eq!(spaced.get("name").map(|entry| entry.value), Some("odd"));
    assert_eq!(spaced.get("scsi0").map(|entry| entry.value), Some("local:100/vm-100-disk-0.qcow2,size=8G"));
}

#[test]
fn an_edit_changes_its_line_and_no_other() {
    let mut spaced = conf("07-odd-spacing");
    spaced.set("memory", "8192");
    let text = String::from_utf8(spaced.print()).expect("UTF-8");
    assert!(text.contains("memory:    8192   \n"), "{text}");
    for (name, bytes) in CONFS {
        let before = std::str::from_utf8(bytes).expect("UTF-8");
        let mut edited = Conf::parse(bytes).expect("UTF-8");
        let had = edited.get("machine").is_some();
        edited.set("machine", "q35-test");
        let after = String::from_utf8(edited.print()).expect("UTF-8");
        let (gone, come) = diff(before, &after);
        assert_eq!(come.len() - gone.len(), usize::from(!had), "{name}: {gone:?} {come:?}");
        assert!(gone.len() <= 1, "{name}: {gone:?} {come:?}");
        let again = Conf::parse(after.as_bytes()).expect("UTF-8");
        assert_eq!(again.get("machine").map(|entry| entry.value), Some("q35-test"), "{name}");
        assert_eq!(again, edited, "{name}");
        if !had {
            assert!(edited.remove("machine"), "{name}");
            let back = String::from_utf8(edited.print()).expect("UTF-8");
            assert_eq!(back, before, "{name}");
        }
    }
}

#[test]
fn a_new_key_stands_where_proxmox_would_sort_it() {
    let mut found = conf("01-as-found");
    for (key, value) in [("bios", "ovmf"), ("machine", "q35"), ("hostpci0", "0000:26:00,pcie=1"), ("zz", "1")] {
        found.set(key, value);
    }
    let keys: Vec<&str> = found.current().map(|entry| entry.key).collect();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(keys, sorted);
    let mut snapshots = conf("03-snapshots");
    snapshots.set("vmgenid", "1");
    let text = String::from_utf8(snapshots.print()).expect("UTF-8");
    assert!(text.contains("size=8G\nvmgenid: 1\n\n[before]\n"), "{text}");
    let mut crlf = conf("05-crlf");
    crlf.set("bios", "ovmf");
    assert!(crlf.print().starts_with(b"bios: ovmf\r\ncores"));
}

#[test]
fn bytes_that_are_no_text_name_their_line() {
    let error = Conf::parse(b"cores: 2\nname: \xff\n").expect_err("no UTF-8");
    assert_eq!(error.line, 2);
    assert_eq!(Domain::parse(b"<domain>\n\n\xff</domain>").expect_err("no UTF-8").line, 3);
}

#[test]
fn section_files() {
    let mapping =
        sections("gpu0\n\tdescription the GT 1030\n\tmap node=pve,path=0000:26:00,id=10de:1d01\n\tmap node=b,path=1\n");
    assert_eq!(mapping.len(), 1);
    let gpu = mapping.first().expect("one");
    assert_eq!((gpu.kind.as_str(), gpu.id.as_str(), gpu.props.len()), ("", "gpu0", 3));
    assert_eq!(gpu.get("description"), Some("the GT 1030"));
    let storage =
        sections("dir: local\n\tpath /var/lib/vz\n\n# note\nlvmthin: local-lvm\n\tcontent images\n\tshared\n");
    assert_eq!(
        storage.iter().map(|one| (one.kind.as_str(), one.id.as_str(), one.line)).collect::<Vec<_>>(),
        [("dir", "local", 1), ("lvmthin", "local-lvm", 5)]
    );
    assert_eq!(storage.last().and_then(|one| one.get("shared")), Some(""));
    assert!(sections("\tno: header\n").is_empty());
}

#[test]
fn domains_are_read() {
    let media = domain("01-q35-efi");
    assert_eq!((media.name.as_str(), media.memory_mib), ("media", Some(8192)));
    assert!(media.is_q35() && media.is_uefi() && media.kvm_hidden);
    assert_eq!((media.secure_boot, media.enrolled_keys), (Some(false), Some(false)));
    assert_eq!((media.free_port(), media.next_index()), (Some(2), 4));
    assert_eq!(media.balloon.as_deref(), Some("none"));
    let two = domain("02-passed");
    assert_eq!(two.name, "two & one");
    assert!(two.is_uefi() && two.loader.as_ref().is_some_and(|loader| loader.secure));
    assert_eq!((two.cpu_mode.as_deref(), two.cpu_model.as_deref()), (Some("custom"), Some("qemu64")));
    let given: Vec<_> = two.hostdevs.iter().map(|one| (one.source, one.managed, one.guest, one.line)).collect();
    assert_eq!(
        given,
        [(Bdf::new(0, 0x26, 0, 0), true, Some((1, 0, 0)), 15), (Bdf::new(0, 0x26, 0, 1), false, Some((1, 0, 1)), 22),]
    );
    assert_eq!(two.free_port(), None);
    let old = domain("03-i440fx");
    assert!(!old.is_q35() && !old.is_uefi());
    assert_eq!(old.memory_mib, Some(512));
    assert_eq!(domain("05-status").hostdevs.first().map(|one| one.source), Some(Bdf::new(0, 1, 0, 0)));
    assert!(domain("06-namespaces").is_uefi());
    assert_eq!(domain("07-bare").name, "x");
}

#[test]
fn domain_text_is_kept_and_splices_add_lines_only() {
    let both = [
        NewHostDev { source: Bdf::new(0, 0x26, 0, 0), guest: Some((2, 0, 0)), multifunction: true },
        NewHostDev { source: Bdf::new(0, 0x26, 0, 1), guest: Some((2, 0, 1)), multifunction: false },
    ];
    for (name, bytes) in DOMAINS {
        let domain = Domain::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(domain.text().as_bytes(), bytes, "{name}");
        let Some(after) = domain.with(Some(9), &both) else {
            assert_eq!(name, "07-bare");
            continue;
        };
        // every byte of the old text is there, in one or two pieces
        let front = domain.text().bytes().zip(after.bytes()).take_while(|(a, b)| a == b).count();
        assert!(after.ends_with(&domain.text()[front..]), "{name}");
        let again = Domain::parse(after.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(both.iter().all(|new| again.hostdevs.iter().any(|one| one.source == new.source)), "{name}");
        assert!(again.pci.contains(&(9, "pcie-root-port".into())), "{name}");
        if domain.hostdevs.is_empty() {
            let sources: Vec<Bdf> = both.iter().map(|one| one.source).collect();
            let back = Domain::parse(again.without(&sources).as_bytes()).expect("still a domain");
            assert!(back.hostdevs.is_empty(), "{name}");
        }
    }
}

#[test]
fn a_splice_uses_the_files_own_line_ends_and_indent() {
    let new = [NewHostDev { source: Bdf::new(0, 0x26, 0, 0), guest: None, multifunction: false }];
    let crlf = domain("04-crlf").with(None, &new).expect("devices");
    assert!(!crlf.replace("\r\n", "").contains('\n'), "{crlf}");
    let tabs = domain("03-i440fx").with(None, &new).expect("devices");
    assert!(tabs.contains("\n\t\t<hostdev mode='subsystem' type='pci' managed='yes'>\n"), "{tabs}");
    let original = domain("02-passed");
    let without = original.without(&[Bdf::new(0, 0x26, 0, 1)]);
    let (gone, come) = diff(original.text(), &without);
    assert_eq!((gone.len(), come.len()), (6, 0));
}

const OURS: &str = "thruway.dev/gpu:";

fn hints(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{OURS}1;id=10de:1d01;pci=0000:2{n}:00.0")).collect()
}

#[test]
fn oem_strings_come_and_go_with_their_lines_only() {
    for (name, bytes) in DOMAINS {
        let this = domain(name);
        let with = match this.with_oem_strings(OURS, &hints(2)) {
            Ok(with) => with,
            Err(NoRoom::NoOs) => {
                assert!(!this.text().contains("</os>"), "{name}");
                continue;
            }
            Err(other) => panic!("{name}: {other}"),
        };
        let new = |line: &&str| ["sysinfo", "oemStrings", OURS].iter().any(|word| line.contains(word));
        let (come, kept): (Vec<&str>, Vec<&str>) = with.split_inclusive('\n').partition(new);
        // an <os> on one line is parted; it comes back together below
        let one_line = this.text().contains("</type></os>");
        assert!(one_line || kept.concat() == this.text(), "{name}: {with}");
        assert_eq!(come.len(), 7, "{name}: {come:?}");
        assert_eq!(come.iter().all(|line| line.ends_with("\r\n")), this.text().contains("\r\n"), "{name}: {come:?}");
        let after = Domain::parse(with.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(after.oem_strings(OURS), hints(2), "{name}");
        assert_eq!((&after.name, &after.hostdevs.len()), (&this.name, &this.hostdevs.len()), "{name}");
        assert_eq!(after.with_oem_strings(OURS, &hints(2)).as_deref(), Ok(with.as_str()), "{name}: twice is once");
        let fewer = after.with_oem_strings(OURS, &hints(1)).expect("room");
        assert_eq!(Domain::parse(fewer.as_bytes()).expect("a domain").oem_strings(OURS), hints(1), "{name}");
        assert_eq!(after.with_oem_strings(OURS, &[]).expect("room").as_bytes(), bytes, "{name}: taken out");
    }
}

#[test]
fn oem_strings_stand_beside_what_others_put_there() {
    let base = domain("01-q35-efi").text().to_owned();
    let other = "  <sysinfo type='smbios'>\n    <system>\n      <entry name='serial'>x</entry>\n    </system>\n    \
        <oemStrings>\n      <entry>myapp:1</entry>\n    </oemStrings>\n  </sysinfo>\n  <os";
    let taken = base.replacen("  <os", other, 1).replacen("</os>", "  <smbios mode='sysinfo'/>\n  </os>", 1);
    let this = Domain::parse(taken.as_bytes()).expect("a domain");
    let with = this.with_oem_strings(OURS, &hints(1)).expect("room");
    let (gone, come) = diff(&taken, &with);
    assert_eq!((gone.len(), come.len()), (0, 1), "{come:?}");
    let after = Domain::parse(with.as_bytes()).expect("a domain");
    assert_eq!(
        (after.oem_strings(OURS), after.oem_strings("")),
        (hints(1), vec!["myapp:1".to_owned(), hints(1).remove(0)])
    );
    assert_eq!(after.with_oem_strings(OURS, &[]).as_deref(), Ok(taken.as_str()));
    // no oemStrings yet
    let strings = "    <oemStrings>\n      <entry>myapp:1</entry>\n    </oemStrings>\n";
    let bare = taken.replacen(strings, "", 1);
    assert_ne!(bare, taken);
    let with = Domain::parse(bare.as_bytes()).expect("a domain").with_oem_strings(OURS, &hints(1)).expect("room");
    let after = Domain::parse(with.as_bytes()).expect("a domain");
    assert_eq!(after.oem_strings(OURS), hints(1));
    assert_eq!(after.with_oem_strings(OURS, &[]).as_deref(), Ok(bare.as_str()));
    // the host's own tables leave no room, and QEMU's own give way
    let mode = |mode: &str| base.replacen("</os>", &format!("  <smbios mode='{mode}'/>\n  </os>"), 1);
    let host = Domain::parse(mode("host").as_bytes()).expect("a domain");
    assert_eq!(host.with_oem_strings(OURS, &hints(1)), Err(NoRoom::HostTables));
    let own = Domain::parse(mode("emulate").as_bytes()).expect("a domain");
    assert!(own.with_oem_strings(OURS, &hints(1)).expect("room").contains("<smbios mode='sysinfo'/>"));
}

#[test]
fn a_root_ports_place_is_read() {
    let text = domain("02-passed").text().replacen(
        "index='1' model='pcie-root-port'/>",
        "index='1' model='pcie-root-port'><address type='pci' bus='0x00' slot='0x02' function='0x1'/></controller>",
        1,
    );
    let this = Domain::parse(text.as_bytes()).expect("a domain");
    assert_eq!((this.port_at(1), this.port_at(0), this.port_at(99)), (Some((2, 1)), None, None));
}

#[test]
fn broken_xml_names_its_line() {
    for (text, line) in [("<domain>\n<a>\n</b>\n</domain>", 3), ("<domain>\n<devices>", 2), ("\n\n", 1), ("<x/>", 1)] {
        assert_eq!(Domain::parse(text.as_bytes()).expect_err(text).line, line, "{text:?}");
    }
    assert!(Domain::parse("<a>".repeat(100_000).as_bytes()).expect_err("deep").message.contains("deeply"));
}

proptest! {
    #[test]
    fn any_text_is_a_conf_and_prints_the_same(text in "([a-z0-9#:= \\[\\]\r\n,]|\\PC){0,300}") {
        let conf = Conf::parse(text.as_bytes()).expect("UTF-8");
        prop_assert_eq!(conf.print(), text.as_bytes());
        let mut edited = conf.clone();
        edited.set("hostpci0", "0000:26:00,pcie=1");
        let again = Conf::parse(&edited.print()).expect("UTF-8");
        prop_assert_eq!(again.get("hostpci0").map(|entry| entry.value), Some("0000:26:00,pcie=1"));
        for (key, value) in [("hostpci0", "a\nonboot: 1"), ("args", "a\r"), ("args", ""), ("args", " a"), ("a: b", "c"), ("[x]", "c")] {
            let mut refused = conf.clone();
            prop_assert!(!refused.set(key, value));
            prop_assert_eq!(refused.print(), text.as_bytes());
        }
        let _ = sections(&text);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(conf) = Conf::parse(&bytes) {
            prop_assert_eq!(conf.print(), bytes.clone());
        }
        if let Ok(domain) = Domain::parse(&bytes) {
            prop_assert_eq!(domain.text().as_bytes(), bytes);
        }
    }

    #[test]
    fn torn_domains_never_panic(cut in 0usize..2000, noise in "[<>/'a-z=&;! \\-]{0,20}", which in 0usize..7) {
        let text = String::from_utf8_lossy(DOMAINS[which].1).into_owned();
        let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let torn = format!("{}{noise}{}", &text[..cut], &text[cut..]);
        if let Ok(domain) = Domain::parse(torn.as_bytes()) {
            let sources: Vec<Bdf> = domain.hostdevs.iter().map(|one| one.source).collect();
            let less = domain.without(&sources);
            prop_assert!(less.len() <= torn.len());
        }
    }
}
