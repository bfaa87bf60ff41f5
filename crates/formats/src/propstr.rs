//! Property strings, as Proxmox VE and QEMU write them: `0000:26:00,pcie=1,x-vga=0`.
//!
//! Items are parted by commas; one without `=` is the value of the schema's default key. Items print as they were
//! read, in their order: what is not understood stays. Source: PVE::JSONSchema, parse_property_string.

/// A parsed property string. `parse` then `to_string` gives the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropStr {
    /// The items' texts, as they stand between the commas.
    items: Vec<String>,
}

impl PropStr {
    /// Every text is a property string; nothing is an error.
    pub fn parse(text: &str) -> Self {
        PropStr { items: text.split(',').map(str::to_owned).collect() }
    }

    /// The items as (key, value); the key is empty for a default value. Empty items are left out.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()).map(split)
    }

    /// The value of `key`; the last one where it is named twice, as Perl's hashes have it.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs().filter(|(name, _)| *name == key).last().map(|(_, value)| value)
    }

    /// The value of the schema's default key: bare, or named as `key`.
    pub fn default_or(&self, key: &str) -> Option<&str> {
        self.pairs().filter(|(name, _)| name.is_empty() || *name == key).last().map(|(_, value)| value)
    }

    /// A boolean as Proxmox VE reads it: 1, on, yes, true; 0, off, no, false; anything else is none.
    pub fn bool(&self, key: &str) -> Option<bool> {
        boolean(self.get(key)?)
    }

    /// Sets `key`: its last item is changed in place, else one is added at the end.
    pub fn set(&mut self, key: &str, value: &str) {
        let item = format!("{key}={value}");
        let empty = self.is_empty();
        match self.items.iter_mut().rev().find(|item| split(item.trim()).0 == key) {
            Some(old) => *old = item,
            None if empty => self.items = vec![item],
            None => self.items.push(item),
        }
    }

    /// Sets the value of the schema's default key, whether it stands bare or is named `key`.
    pub fn set_default(&mut self, key: &str, value: &str) {
        let empty = self.is_empty();
        let slot = self.items.iter_mut().rev().find(|item| {
            let (name, text) = split(item.trim());
            (name.is_empty() && !text.is_empty()) || name == key
        });
        match slot {
            Some(old) if split(old.trim()).0 == key => *old = format!("{key}={value}"),
            Some(old) => *old = value.to_owned(),
            None if empty => self.items = vec![value.to_owned()],
            None => self.items.insert(0, value.to_owned()),
        }
    }

    /// True where no item stands.
    pub fn is_empty(&self) -> bool {
        self.items.iter().all(|item| item.trim().is_empty())
    }

    /// Removes every item named `key`; true where there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.items.len();
        self.items.retain(|item| split(item.trim()).0 != key || key.is_empty());
        self.items.len() != before
    }
}

impl std::fmt::Display for PropStr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.items.join(","))
    }
}

/// A boolean as Proxmox VE spells it in configuration files.
pub fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

fn split(item: &str) -> (&str, &str) {
    item.split_once('=').map_or(("", item), |(key, value)| (key.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_default_value_stands_bare_or_named() {
        assert_eq!(PropStr::parse("0000:26:00,pcie=1").default_or("host"), Some("0000:26:00"));
        assert_eq!(PropStr::parse("pcie=1,host=26:00.0").default_or("host"), Some("26:00.0"));
        assert_eq!(PropStr::parse("mapping=gpu0,pcie=on").default_or("host"), None);
        assert_eq!(PropStr::parse("mapping=gpu0,pcie=on").bool("pcie"), Some(true));
        assert_eq!(PropStr::parse("host,pcie=maybe").bool("pcie"), None);
    }

    #[test]
    fn edits_touch_one_item() {
        let mut host = PropStr::parse("0000:26:00.0,rombar=0");
        host.set("pcie", "1");
        host.set_default("host", "0000:26:00");
        assert_eq!(host.to_string(), "0000:26:00,rombar=0,pcie=1");
        host.set("rombar", "1");
        assert!(host.remove("pcie"));
        assert!(!host.remove("pcie"));
        assert_eq!(host.to_string(), "0000:26:00,rombar=1");
        let mut named = PropStr::parse("pcie=1,host=26:00.0");
        named.set_default("host", "0000:26:00");
        assert_eq!(named.to_string(), "pcie=1,host=0000:26:00");
        let mut empty = PropStr::parse("");
        empty.set("pcie", "1");
        assert_eq!(empty.to_string(), "pcie=1");
    }

    proptest! {
        #[test]
        fn printing_gives_back_what_was_read(text in ".*") {
            prop_assert_eq!(PropStr::parse(&text).to_string(), text);
        }

        #[test]
        fn what_was_set_is_read(text in "[a-z0-9=,:. -]{0,40}", value in "[a-z0-9]{1,8}") {
            let mut props = PropStr::parse(&text);
            props.set("pcie", &value);
            prop_assert_eq!(props.get("pcie"), Some(value.as_str()));
            let again = PropStr::parse(&props.to_string());
            prop_assert_eq!(again.get("pcie"), Some(value.as_str()));
        }
    }
}
