//! Answers to closed questions, from a box's JSON to what the machine replays.

use machine::nvml::{NvmlGpu, NvmlReport};
use machine::{Answer, Question};
use serde_json::Value;

/// Wraps a box's text as the answer to `key`. NVML's fields that the box leaves out are absent ("N/A").
pub(crate) fn parse(key: &str, text: &str) -> Result<(Question, Answer), String> {
    let question = Question::from_key(key).ok_or_else(|| {
        let known: Vec<&str> = Question::ALL.iter().map(|q| q.key()).collect();
        format!("\"{key}\" is no question; the questions are: {}", known.join(", "))
    })?;
    let value: Value = serde_json::from_str(text).map_err(|error| format!("\"{key}\" is no JSON: {error}"))?;
    let answer = match question {
        Question::Nvml | Question::NvmlAll => Answer::Nvml(Box::new(nvml(value)?)),
        _ => Answer::Json(value),
    };
    Ok((question, answer))
}

fn nvml(value: Value) -> Result<NvmlReport, String> {
    let Value::Object(mut report) = value else { return Err("\"nvml\" is no JSON object".into()) };
    let gpus = match report.remove("gpus") {
        Some(Value::Array(gpus)) => gpus,
        None => Vec::new(),
        Some(_) => return Err("\"nvml\": gpus is no list".into()),
    };
    let whole = |at: usize, gpu: Value| -> Result<NvmlGpu, String> {
        let blank = serde_json::to_value(NvmlGpu::blank(at as u32)).map_err(|error| error.to_string())?;
        let (Value::Object(mut all), Value::Object(given)) = (blank, gpu) else {
            return Err(format!("\"nvml\": gpu {at} is no JSON object"));
        };
        for (field, value) in given {
            match all.get_mut(&field) {
                Some(slot) => *slot = value,
                None => return Err(format!("\"nvml\": gpu {at} has no field \"{field}\"")),
            }
        }
        serde_json::from_value(Value::Object(all)).map_err(|error| format!("\"nvml\": gpu {at}: {error}"))
    };
    let gpus: Result<Vec<NvmlGpu>, String> = gpus.into_iter().enumerate().map(|(at, gpu)| whole(at, gpu)).collect();
    for field in ["driver_version", "nvml_version", "cuda_version"] {
        report.entry(field).or_insert_with(|| Value::String("absent".into()));
    }
    report.insert("gpus".into(), Value::Array(Vec::new()));
    let mut report: NvmlReport =
        serde_json::from_value(Value::Object(report)).map_err(|error| format!("\"nvml\": {error}"))?;
    report.gpus = gpus?;
    Ok(report)
}
