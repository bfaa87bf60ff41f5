use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn scalars_are_typed_as_kubectl_types_them() {
    let text = "a: 1\nb: 'no'\nc: yes\nd: Off\ne: 0644\nf: 0x1F\ng: 0o17\nh: 1_000\ni: 1.5e3\nj: ~\nk:\nl: \"1\"\nm: 1.2.3\n\
        n1: 2022-02-11\no: -12\np: !!str 12\nq: 18446744073709551615\nr: 99999999999999999999\ns: NO\nt: nO\nu: 08\nv: 1e3\nw: 1.\n";
    let expected = json!({
        "a": 1, "b": "no", "c": true, "d": false, "e": 420, "f": 31, "g": 15, "h": 1000, "i": 1500.0, "j": null, "k": null,
        "l": "1", "m": "1.2.3", "n1": "2022-02-11", "o": -12, "p": "12", "q": 18446744073709551615u64, "r": 1e20,
        "s": false, "t": "nO", "u": 8.0, "v": 1000.0, "w": 1.0,
    });
    assert_eq!(parse(text).expect("reads"), expected);
    assert_eq!(parse("1: a\ntrue: b\n").expect("reads"), json!({"1": "a", "true": "b"}));
    assert_eq!(parse("# nothing\n\n").expect("reads"), Value::Null);
    assert_eq!(
        parse("a: |\n  one\n  two\nb: >-\n  one\n  two\n").expect("reads"),
        json!({"a": "one\ntwo\n", "b": "one two"})
    );
}

#[test]
fn merges_fill_in_what_the_mapping_has_not_itself() {
    let text = "base: &b {x: 1, y: 2}\nmore: &m {y: 5, z: 3}\none:\n  <<: *b\n  yy: 9\n  x: 7\ntwo:\n  <<: [*b, *m]\nlist: &l [1]\nagain: *l\n";
    let value = parse(text).expect("reads");
    assert_eq!(value["one"], json!({"yy": 9, "x": 7, "true": 2}));
    assert_eq!(value["two"], json!({"x": 1, "true": 2, "z": 3}));
    assert_eq!(value["again"], json!([1]));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let says = |text: &str| parse(text).expect_err("is wrong").to_string();
    assert_eq!(says("a: 1\nb:\n  c: 1\n  c: 2\n"), "line 4, column 3: the key c stands twice in one mapping");
    assert_eq!(says("a: 1\n---\nb: 1\n"), "line 3, column 1: a second document begins here, and one is expected");
    assert_eq!(says("a: !vault x\n"), "line 1, column 4: a tag of this kind is not read");
    assert_eq!(says("a: &x [*x]\n"), "line 1, column 8: the alias stands within its own anchor");
    assert_eq!(says("? [a]\n: b\n"), "line 1, column 3: the key is no text");
    assert_eq!(
        says("a: .inf\n"),
        "line 1, column 4: .inf is no number that JSON has; put it in quotes if text is meant"
    );
    assert_eq!(says("a: 1\n<<: 3\n"), "line 2, column 5: << takes a mapping or a list of mappings");
    let tab = parse("a:\n\tb: 1\n").expect_err("a tab");
    assert_eq!(tab.line, 2, "{tab}");
    let open = parse("a: [1\n").expect_err("open");
    assert!(open.message.starts_with("this is no YAML: "), "{open}");
    assert!(parse("a: *none\n").is_err());
    assert!(parse("a: !!int x\n").is_err());
}

#[test]
fn a_few_lines_do_not_become_gigabytes() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let before = format!("*a{}", n - 1);
        text.push_str(&format!("a{n}: &a{n} [{}]\n", [before.as_str(); 9].join(", ")));
    }
    assert!(parse(&text).expect_err("a bomb").message.contains("too large"));
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), ["*a"; 40].join(", "));
    assert!(parse(&long).expect_err("long ones").message.contains("too large"));
    assert!(parse(&"[".repeat(5000)).is_err());
    assert!(parse(&"- ".repeat(5000)).is_err());
    assert!(parse(&" ".repeat(MAX_TEXT + 1)).expect_err("long").message.contains("at most"));
}

#[test]
fn documents_are_told_apart() {
    let all = parse_all("---\na: 1\n---\n# none\n---\nb: 2\n...\n").expect("reads");
    assert_eq!(all, [json!({"a": 1}), json!({"b": 2})]);
}

#[test]
fn the_trees_spans_are_what_stands_there() {
    let text = "# head\nkind: Pod # of this kind\nspec:\n  list:\n  - name: \"a b\"\n    env: {x: 1}\n\n  # between\n  - [p, q]\n  empty:\nlast: 'x'\n";
    let documents = tree::documents(text).expect("reads");
    let root = documents.first().expect("one");
    let shown = |node: &Node| text[node.span.clone()].to_owned();
    assert_eq!(shown(root.get("kind").expect("is there")), "Pod");
    assert_eq!(shown(root.get("last").expect("is there")), "'x'");
    let spec = root.get("spec").expect("is there");
    assert_eq!((spec.line, spec.column), (4, 3));
    let list = spec.get("list").expect("is there");
    let [first, second] = list.items() else { panic!("two items") };
    assert_eq!(shown(first), "name: \"a b\"\n    env: {x: 1}");
    assert_eq!(shown(second), "[p, q]");
    assert!(spec.get("empty").expect("is there").is_empty());
    assert_eq!(
        shown(spec),
        text[text.find("list:").expect("is there")..text.find("\nlast").expect("is there")]
            .trim_end_matches(':')
            .to_owned()
    );
    assert!(shown(root).ends_with("'x'"));
}

/// Values that YAML can say again.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        "\\PC{0,12}".prop_map(Value::String),
        "(yes|no|on|0[0-9]{2}|1e[0-9]|~|null|-|\\?|: |#x|&a|\\*a|<<|---|a: b|[ \n\t]{1,3})".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map("\\PC{1,8}|yes|12", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[-a-z0-9:#&*!|>'\"%@{}\\[\\], \t\n.<~?]{0,120}") {
        for document in tree::documents(&text).unwrap_or_default() {
            prop_assert!(text.get(document.span.clone()).is_some(), "{:?}", document);
        }
        let _ = parse_all(&text);
    }

    /// The house's own printer writes nothing that its reader takes for something else.
    #[test]
    fn what_is_printed_is_read_again(value in any_value()) {
        let printed = crate::yamlout::print(&value);
        prop_assert_eq!(parse(&printed).map_err(|bad| bad.to_string()), Ok(value), "{}", printed);
    }
}
