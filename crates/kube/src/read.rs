//! Strict reading of the API's JSON. An answer is untrusted (a capture, a stranger's API server): a field that is
//! there with another type than the API gives it makes the whole answer malformed, and so every verdict on it
//! unknown. Taking such a field for absent could turn a fault into a pass.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What is wrong, with the path to it: `items[2].spec.template is no object`.
pub(crate) type Bad = String;

/// A value with the path that leads to it.
#[derive(Clone)]
pub(crate) struct At<'a> {
    value: Option<&'a Value>,
    path: String,
}

impl<'a> At<'a> {
    pub fn root(value: &'a Value, name: &str) -> Self {
        At { value: Some(value), path: name.to_owned() }
    }

    /// The field, which may be absent. `null` is absence, as the API has it.
    pub fn at(&self, key: &str) -> Result<At<'a>, Bad> {
        let value = self.map()?.and_then(|map| map.get(key)).filter(|value| !value.is_null());
        Ok(At { value, path: format!("{}.{key}", self.path) })
    }

    /// Several fields down.
    pub fn down(&self, keys: &[&str]) -> Result<At<'a>, Bad> {
        let mut here = self.clone();
        for key in keys {
            here = here.at(key)?;
        }
        Ok(here)
    }

    pub fn is_there(&self) -> bool {
        self.value.is_some()
    }

    pub fn raw(&self) -> Option<&'a Value> {
        self.value
    }

    fn is_no(&self, what: &str) -> Bad {
        format!("{} is no {what}", self.path)
    }

    fn map(&self) -> Result<Option<&'a Map<String, Value>>, Bad> {
        match self.value {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.is_no("object")),
        }
    }

    pub fn list(&self) -> Result<Vec<At<'a>>, Bad> {
        match self.value {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list
                .iter()
                .enumerate()
                .map(|(n, value)| At { value: Some(value), path: format!("{}[{n}]", self.path) })
                .collect()),
            Some(_) => Err(self.is_no("list")),
        }
    }

    pub fn text(&self) -> Result<Option<String>, Bad> {
        match self.value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.is_no("text")),
        }
    }

    /// A text that must be there and not be empty.
    pub fn name(&self) -> Result<String, Bad> {
        self.text()?.filter(|text| !text.is_empty()).ok_or_else(|| format!("{} is missing", self.path))
    }

    pub fn texts(&self) -> Result<Vec<String>, Bad> {
        self.list()?.iter().map(|item| item.text().map(Option::unwrap_or_default)).collect()
    }

    pub fn flag(&self) -> Result<bool, Bad> {
        match self.value {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.is_no("true or false")),
        }
    }

    pub fn number(&self) -> Result<Option<i64>, Bad> {
        match self.value {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| self.is_no("whole number")),
        }
    }

    /// A map of texts: labels, selectors.
    pub fn pairs(&self) -> Result<BTreeMap<String, String>, Bad> {
        let mut pairs = BTreeMap::new();
        for (key, value) in self.map()?.into_iter().flatten() {
            let Value::String(value) = value else { return Err(format!("{}.{key} is no text", self.path)) };
            pairs.insert(key.clone(), value.clone());
        }
        Ok(pairs)
    }

    /// The entries under NVIDIA's resource prefix, counted. The API writes them as texts; numbers are read too.
    pub fn resources(&self) -> Result<BTreeMap<String, u64>, Bad> {
        let mut counts = BTreeMap::new();
        for (key, value) in self.map()?.into_iter().flatten().filter(|(key, _)| key.starts_with("nvidia.com/")) {
            let count = match value {
                Value::String(text) => formats::quantity::whole(text),
                other => other.as_u64(),
            };
            let count = count.ok_or_else(|| format!("{}.{key} is no count", self.path))?;
            counts.insert(key.clone(), count);
        }
        Ok(counts)
    }
}
