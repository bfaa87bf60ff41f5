//! mig-parted's configuration file: `version: v1`, `mig-configs:` with a list of entries for each layout. Read only.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct File {
    /// "v1"
    pub version: String,
    /// Layout → what it says of which devices.
    #[serde(rename = "mig-configs")]
    pub configs: BTreeMap<String, Vec<Entry>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    pub devices: Devices,
    /// "0x20B010DE": device in the high half, vendor in the low. None: every card.
    #[serde(default)]
    pub device_filter: Filter,
    pub mig_enabled: bool,
    /// Profile → how many.
    #[serde(default)]
    pub mig_devices: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Devices {
    /// "all"
    Word(String),
    /// By index.
    List(Vec<u32>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Filter {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

impl Filter {
    pub fn ids(&self) -> &[String] {
        match self {
            Filter::None => &[],
            Filter::One(id) => std::slice::from_ref(id),
            Filter::Several(ids) => ids,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MigPartedError {
    #[error("it is no mig-parted configuration: {0}")]
    Yaml(String),
    #[error("version {0:?} is not known; v1 is")]
    Version(String),
}

pub fn read(text: &str) -> Result<File, MigPartedError> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| MigPartedError::Yaml(error.to_string()))?;
    if file.version != "v1" {
        return Err(MigPartedError::Version(file.version));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_of_its_users_is_read() {
        let text = "version: v1\nmig-configs:\n  all-disabled:\n    - devices: all\n      mig-enabled: false\n  custom:\n\
            \x20   - device-filter: [\"0x20B210DE\", \"0x233010DE\"]\n      devices: [0, 2]\n      mig-enabled: true\n\
            \x20     mig-devices:\n        \"1g.10gb\": 7\n    - device-filter: \"0x20B010DE\"\n      devices: all\n\
            \x20     mig-enabled: true\n      mig-devices: {}\n";
        let file = read(text).expect("is one");
        assert_eq!(file.configs["all-disabled"][0].devices, Devices::Word("all".into()));
        let [first, second] = &file.configs["custom"][..] else { panic!("two entries") };
        assert_eq!((&first.devices, first.mig_devices["1g.10gb"]), (&Devices::List(vec![0, 2]), 7));
        assert_eq!((first.device_filter.ids().len(), second.device_filter.ids()), (2, &["0x20B010DE".to_owned()][..]));
    }

    #[test]
    fn what_is_none_is_refused() {
        assert!(read("version: v2\nmig-configs: {}\n").expect_err("newer").to_string().contains("\"v2\""));
        assert!(
            read("version: v1\nmig-configs:\n  a:\n    - devices: all\n")
                .expect_err("half")
                .to_string()
                .contains("mig-enabled")
        );
        assert!(read("").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(version: v1\n)?(mig-configs:\n)?[ -~\n]{0,200}") {
            let _ = read(&text);
        }
    }
}
