//! What an ffmpeg was asked to do, by its command line, and what it did, by its log.

use serde::Serialize;

use crate::observe::Says;
use crate::observe::sign;

/// Where one half of a transcode is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Card,
    Cpu,
    /// The stream is copied, or there is none: nothing to do.
    Nobody,
}

/// What the words of a command line ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    pub decode: Place,
    pub encode: Place,
    /// "h264_nvenc", "libx264", "copy".
    pub encoder: Option<String>,
    pub input: Option<String>,
}

/// Options of ffmpeg are positional: before `-i` they are of the input, after it of the output. None: it is no ffmpeg.
pub fn asked(words: &[String]) -> Option<Asked> {
    let program = words.first()?.rsplit('/').next()?;
    if !program.starts_with("ffmpeg") {
        return None;
    }
    let mut asked = Asked { decode: Place::Cpu, encode: Place::Nobody, encoder: None, input: None };
    let mut rest = words.iter().skip(1).map(String::as_str).peekable();
    while let Some(word) = rest.next() {
        let video = |word: &str| {
            let name = word.split(':').next().unwrap_or_default();
            let of_video = !word.contains(':') || word.contains(":v") || word.contains(":0");
            matches!(name, "-c" | "-codec") && of_video || name == "-vcodec"
        };
        match word {
            "-i" => asked.input = rest.next().map(str::to_owned),
            "-vn" if asked.input.is_some() => asked.encode = Place::Nobody,
            "-hwaccel" if asked.input.is_none() => {
                if matches!(rest.next(), Some("cuda" | "nvdec" | "cuvid")) {
                    asked.decode = Place::Card;
                }
            }
            word if video(word) => {
                let codec = rest.next().unwrap_or_default();
                if asked.input.is_none() {
                    if codec.ends_with("_cuvid") {
                        asked.decode = Place::Card;
                    }
                } else if asked.encoder.is_none() {
                    asked.encoder = Some(codec.to_owned());
                    asked.encode = place_of(codec);
                }
            }
            _ => {}
        }
    }
    if asked.encode == Place::Nobody && asked.encoder.as_deref() == Some("copy") {
        asked.decode = Place::Nobody;
    }
    Some(asked)
}

fn place_of(encoder: &str) -> Place {
    match encoder {
        "copy" => Place::Nobody,
        name if name.ends_with("_nvenc") || name.starts_with("nvenc") => Place::Card,
        _ => Place::Cpu,
    }
}

/// What a log tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Of "Stream mapping:": "h264 (native) -> h264 (h264_nvenc)".
    pub mapping: Option<Line>,
    /// Frames so far, of the last progress line.
    pub frames: Option<u64>,
    /// Speed in thousandths: "1.5x" is 1500.
    pub speed: Option<u64>,
    /// The first line that says something is wrong.
    pub trouble: Option<(Says, Line)>,
}

/// A line with its number, from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub number: u32,
    pub text: String,
}

/// Reads a log of ffmpeg. Progress lines end with a carriage return.
pub fn told(text: &str) -> Told {
    let mut told = Told::default();
    for (number, row) in (1u32..).zip(text.split('\n')) {
        for part in row.split('\r') {
            let line = || Line { number, text: part.trim().chars().take(200).collect() };
            if let Some(says) = sign(part) {
                told.trouble.get_or_insert_with(|| (says, line()));
            }
            // "  Stream #0:0 -> #0:0 (h264 (native) -> h264 (h264_nvenc))": the video comes first
            if told.mapping.is_none() && part.trim_start().starts_with("Stream #") && part.contains(" -> #") {
                told.mapping = Some(line());
            }
            if let Some(rest) = part.trim_start().strip_prefix("frame=") {
                told.frames = rest.split_whitespace().next().and_then(|n| n.parse().ok()).or(told.frames);
                let speed = part.rsplit("speed=").next().and_then(|text| text.trim().strip_suffix('x'));
                let speed = speed.and_then(|text| text.trim().parse::<f64>().ok()).filter(|speed| *speed >= 0.0);
                told.speed = speed.map(|speed| (speed * 1000.0).min(1e12) as u64).or(told.speed);
            }
        }
    }
    told
}

impl Told {
    /// By the mapping: which encoder was taken. None: no mapping, or several things are possible.
    pub fn encodes(&self) -> Option<Place> {
        let text = &self.mapping.as_ref()?.text;
        if text.ends_with("(copy)") {
            return Some(Place::Nobody);
        }
        let encoder = text.rsplit_once("-> ")?.1;
        let name = encoder.split_once('(')?.1.trim_end_matches(')');
        Some(place_of(name))
    }

    /// By the mapping, where a decoder of the card's own is named (the old way); a hardware acceleration does not show there.
    pub fn decodes(&self) -> Option<Place> {
        let text = &self.mapping.as_ref()?.text;
        text.ends_with("(copy)").then_some(Place::Nobody).or_else(|| text.contains("_cuvid)").then_some(Place::Card))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_line_says_what_is_asked() {
        let of = |text: &str| asked(&words(text)).map(|asked| (asked.decode, asked.encode));
        use Place::{Card, Cpu, Nobody};
        for (text, wanted) in [
            ("/usr/lib/jellyfin-ffmpeg/ffmpeg -hwaccel cuda -i a -codec:v:0 libx264 out", Some((Card, Cpu))),
            ("ffmpeg -init_hw_device cuda=cu:0 -hwaccel cuda -i a -c:v h264_nvenc -c:a aac out", Some((Card, Card))),
            ("ffmpeg -c:v hevc_cuvid -i a -vcodec hevc_nvenc out", Some((Card, Card))),
            ("ffmpeg -i a -c:v libx264 out", Some((Cpu, Cpu))),
            // after the input it is an option of the output, and no hardware decoding
            ("ffmpeg -i a -hwaccel cuda -c:v libx264 out", Some((Cpu, Cpu))),
            ("ffmpeg -hwaccel vaapi -i a -c:v av1_nvenc out", Some((Cpu, Card))),
            ("ffmpeg -hwaccel cuda -i a -codec:v:0 copy out", Some((Nobody, Nobody))),
            ("ffmpeg -hwaccel cuda -i a -c:a aac -c:v h264_nvenc out", Some((Card, Card))),
            ("ffmpeg", Some((Cpu, Nobody))),
            ("python3 train.py", None),
        ] {
            assert_eq!(of(text), wanted, "{text}");
        }
        assert_eq!(asked(&[]), None);
    }

    #[test]
    fn a_log_says_what_was_done() {
        let log = "ffmpeg version 5.1.6\n[h264 @ 0x5] Failed setup for format cuda: hwaccel initialisation returned error.\n\
            Stream mapping:\n  Stream #0:0 -> #0:0 (h264 (native) -> h264 (h264_nvenc))\n  Stream #0:1 -> #0:1 (aac (native) -> aac (native))\n\
            frame=   10 fps=0.0 q=1.0 speed=0.5x\rframe=  250 fps= 50 q=29.0 size= 1kB time=00:00:10.00 bitrate= 1.0kbits/s speed=2.04x    \n";
        let told = told(log);
        assert_eq!(told.encodes(), Some(Place::Card));
        assert_eq!(told.decodes(), None);
        assert_eq!((told.frames, told.speed), (Some(250), Some(2040)));
        let (says, line) = told.trouble.expect("a trouble");
        assert_eq!((says, line.number), (Says::SoftwareFallback, 2));
    }

    #[test]
    fn mappings_of_each_kind() {
        let of = |row: &str| {
            let told = told(&format!("Stream mapping:\n  Stream #0:0 -> #0:0 {row}\n"));
            (told.decodes(), told.encodes())
        };
        use Place::{Card, Cpu, Nobody};
        assert_eq!(of("(hevc (hevc_cuvid) -> h264 (libx264))"), (Some(Card), Some(Cpu)));
        assert_eq!(of("(copy)"), (Some(Nobody), Some(Nobody)));
        assert_eq!(of("(h264 (native) -> wrapped_avframe (native))"), (None, Some(Cpu)));
        assert_eq!(of("nonsense"), (None, None));
        assert_eq!(told("frame=xx speed=N/A\n"), Told::default());
    }
}
