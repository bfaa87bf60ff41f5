use proptest::prelude::*;

use super::view::*;
use super::*;

/// The entries in the loader's order.
fn sort(cache: &mut Cache) {
    cache.entries.sort_by(|a, b| order(&EntryView::of(a), &EntryView::of(b)));
}

fn sample() -> Cache {
    let mut special = Entry::new("libc.so.6", "/usr/lib/glibc-hwcaps/x86-64-v3/libc.so.6", Arch::X86_64);
    special.hwcaps = Some("x86-64-v3".into());
    Cache {
        entries: vec![
            Entry::new("libnvidia-ml.so.1", "/usr/local/nvidia/lib64/libnvidia-ml.so.1", Arch::X86_64),
            Entry::new("libnvidia-ml.so.1", "/lib/libnvidia-ml.so.1", Arch::X86_64),
            Entry::new("libnvidia-ml.so", "/lib/libnvidia-ml.so", Arch::X86_64),
            special,
            Entry::new("libc.so.6", "/lib/libc.so.6", Arch::X86_64),
            Entry::new("libc.so.6", "/lib32/libc.so.6", Arch::I386),
        ],
        generator: Some("ldconfig (GNU libc) stable release version 2.39".into()),
    }
}

/// The old form, alone or in front of the new one.
fn old(entries: &[(&str, &str)], new: Option<&[u8]>) -> Vec<u8> {
    let mut out = OLD_MAGIC.to_vec();
    out.push(0);
    out.extend((entries.len() as u32).to_le_bytes());
    let mut strings = Vec::new();
    for (soname, path) in entries {
        out.extend(3_u32.to_le_bytes());
        for text in [soname, path] {
            out.extend((strings.len() as u32).to_le_bytes());
            strings.extend(text.as_bytes());
            strings.push(0);
        }
    }
    match new {
        Some(new) => {
            out.resize(out.len().next_multiple_of(8), 0);
            let at = out.len();
            out.extend(new);
            // the extension's place counts from the file's start
            let extension =
                new.get(32..36).and_then(|four| four.first_chunk::<4>()).map(|four| u32::from_le_bytes(*four));
            if let Some(place) = extension.filter(|place| *place != 0) {
                let moved = place + at as u32;
                out[at + 32..at + 36].copy_from_slice(&moved.to_le_bytes());
                let sections = u32::from_le_bytes(*out[moved as usize + 4..].first_chunk::<4>().expect("a count"));
                for section in 0..sections as usize {
                    let from = moved as usize + 8 + section * 16 + 8;
                    let place = u32::from_le_bytes(*out[from..].first_chunk::<4>().expect("a place")) + at as u32;
                    out[from..from + 4].copy_from_slice(&place.to_le_bytes());
                }
            }
        }
        None => out.extend(strings),
    }
    out
}

#[test]
fn writes_what_it_reads() {
    let bytes = sample().to_bytes();
    let read = Cache::parse(&bytes).expect("our own bytes");
    let mut wanted = sample();
    sort(&mut wanted);
    assert_eq!(read, wanted);
    assert_eq!(read.to_bytes(), bytes);
    let first = read.named("libnvidia-ml.so.1").next().expect("is listed");
    assert_eq!((first.path.as_str(), first.arch()), ("/usr/local/nvidia/lib64/libnvidia-ml.so.1", Arch::X86_64));
}

#[test]
fn sorts_as_the_loader_searches() {
    // Descending, digits by value: so10 comes before so9, and libz before libc.
    let names: Vec<Entry> = ["liba.so.9", "libz.so.1", "liba.so.10", "liba.so"]
        .map(|name| Entry::new(name, format!("/lib/{name}"), Arch::X86_64))
        .into();
    let read = Cache::parse(&Cache { entries: names, generator: None }.to_bytes()).expect("our own bytes");
    let order: Vec<&str> = read.entries.iter().map(|entry| entry.soname.as_str()).collect();
    assert_eq!(order, ["libz.so.1", "liba.so.10", "liba.so.9", "liba.so"]);
}

#[test]
fn reads_the_old_form_and_the_new_one_behind_it() {
    let only_old = Cache::parse(&old(&[("libz.so.1", "/lib/libz.so.1")], None)).expect("old");
    assert_eq!(only_old.entries[0].path, "/lib/libz.so.1");
    let both = old(&[("libz.so.1", "/lib/other.so")], Some(&sample().to_bytes()));
    assert_eq!(Cache::parse(&both).expect("both").entries.len(), sample().entries.len());
}

/// Written by the real ldconfig of glibc 2.36 with `-c compat`, over one library and one for x86-64-v3.
#[test]
fn reads_what_ldconfig_writes_for_old_loaders() {
    let bytes = include_bytes!("compat.cache");
    let cache = Cache::parse(bytes).expect("a cache");
    let shown: Vec<_> = cache.entries.iter().map(|entry| (entry.path.as_str(), entry.hwcaps.as_deref())).collect();
    assert_eq!(
        shown,
        [("/usr/lib/glibc-hwcaps/x86-64-v3/libh.so.1.2", Some("x86-64-v3")), ("/usr/lib/libh.so.1", None)]
    );
    assert_eq!(cache.entries[0].isa_level, 2);
    assert!(cache.generator.expect("is there").starts_with("ldconfig (Debian GLIBC 2.36"));
}

#[test]
fn the_combined_form_says_the_same_in_both_halves() {
    let bytes = sample().to_combined_bytes();
    assert_eq!(Cache::parse(&bytes), Cache::parse(&sample().to_bytes()));
    // an old loader stops before the new half: what it reads has no line for certain processors only
    let table = OLD_HEADER + 5 * OLD_ENTRY;
    let mut old = bytes[..table].to_vec();
    old.extend(&bytes[table..]);
    let inner = table.next_multiple_of(8);
    old[inner..inner + 4].copy_from_slice(b"gone");
    let read = Cache::parse(&old).expect("the old half stands alone");
    let named = |cache: &Cache| cache.entries.iter().map(|e| (e.soname.clone(), e.path.clone())).collect::<Vec<_>>();
    let mut whole = Cache::parse(&bytes).expect("both");
    whole.entries.retain(|entry| entry.hwcaps.is_none());
    assert_eq!(named(&read), named(&whole));
}

#[test]
fn the_level_that_a_library_asks_for_is_kept() {
    let mut cache = sample();
    cache.entries[3].isa_level = 2;
    let read = Cache::parse(&cache.to_bytes()).expect("our own bytes");
    let special = read.entries.iter().find(|entry| entry.hwcaps.is_some()).expect("is there");
    assert_eq!((special.isa_level, special.hwcap), (2, 0));
}

#[test]
fn reads_a_big_endian_cache() {
    let mut bytes = NEW_MAGIC.to_vec();
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend(10_u32.to_be_bytes());
    bytes.extend([3, 0, 0, 0]);
    bytes.extend([0; 16]);
    for word in [3_u32, 72, 72, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(b"/lib/a.so\0");
    assert_eq!(Cache::parse(&bytes).expect("big-endian").entries[0].soname, "/lib/a.so");
}

#[test]
fn says_where_it_is_broken() {
    assert_eq!(Cache::parse(b"hello").map_err(|error| error.offset), Err(0));
    let whole = sample().to_bytes();
    let cut = Cache::parse(&whole[..60]).expect_err("cut in the table");
    assert!(cut.to_string().starts_with("byte 48: more entries"), "{cut}");
    let mut lying = whole.clone();
    lying[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Cache::parse(&lying).is_err());
    let mut far = whole;
    far[52..56].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Cache::parse(&far).map_err(|error| error.offset), Err(52));
}

#[test]
fn reads_what_ldconfig_prints() {
    let text = "2 libs found in cache `/etc/ld.so.cache'\n\
\tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1\n\
\tlibz.so.1 (libc6,x86-64, hwcap: \"x86-64-v3\") => /lib/v3/libz.so.1\n\
Cache generated by: ldconfig (Ubuntu GLIBC 2.39-0ubuntu8.9) stable release version 2.39\n";
    let cache = Cache::from_listing(text).expect("ldconfig's own text");
    assert_eq!(cache.entries[0], Entry::new("libz.so.1", "/lib/x86_64-linux-gnu/libz.so.1", Arch::X86_64));
    assert_eq!(cache.entries[1].hwcaps.as_deref(), Some("x86-64-v3"));
    assert_eq!(cache.generator.as_deref(), Some("ldconfig (Ubuntu GLIBC 2.39-0ubuntu8.9) stable release version 2.39"));
    assert_eq!(Cache::from_listing("1 libs found in cache\n\tlibz.so.1 nowhere\n"), Err(ListingError { line: 2 }));
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = ("[a-z0-9.+-]{1,12}", "/[a-z0-9/.]{0,20}", 0_u8..12, proptest::option::of("x86-64-v[234]"), 0_u64..9);
    proptest::collection::vec(
        entry.prop_map(|(soname, path, high, hwcaps, hwcap)| Entry {
            flags: u32::from(high) << 8 | 3,
            hwcap: if hwcaps.is_some() { 0 } else { hwcap },
            soname,
            path,
            osversion: 0,
            hwcaps,
            isa_level: 0,
        }),
        0..20,
    )
}

proptest! {
    #[test]
    fn any_cache_comes_back(entries in entries(), generator in proptest::option::of("[ -~]{1,30}")) {
        let mut cache = Cache { entries, generator };
        let bytes = cache.to_bytes();
        let read = Cache::parse(&bytes).expect("our own bytes");
        sort(&mut cache);
        prop_assert_eq!(&read, &cache);
        prop_assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn broken_caches_are_errors_or_caches(
        entries in entries(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = Cache { entries, generator: Some("g".into()) }.to_bytes();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Err(error) = Cache::parse(&bytes) {
            prop_assert!(!error.what.is_empty());
        }
    }

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assume!(!bytes.starts_with(b"ld.so") && !bytes.starts_with(b"glibc"));
        prop_assert!(Cache::parse(&bytes).is_err());
    }
}
