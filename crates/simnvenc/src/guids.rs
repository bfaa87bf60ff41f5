//! GUIDs of codecs, presets and profiles, from the public header (nvEncodeAPI.h).

/// GUID, as C passes it by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid {
    pub a: u32,
    pub b: u16,
    pub c: u16,
    pub d: [u8; 8],
}

/// From its text: "6bc82762-4e63-4ca4-aa85-1e50f321f6bf".
const fn guid(text: &str) -> Guid {
    let bytes = text.as_bytes();
    let mut number: u128 = 0;
    let mut at = 0;
    while at < bytes.len() {
        number = match bytes[at] {
            b'-' => number,
            digit @ b'0'..=b'9' => number << 4 | (digit - b'0') as u128,
            digit => number << 4 | (digit - b'a' + 10) as u128,
        };
        at += 1;
    }
    let b = number.to_be_bytes();
    Guid {
        a: (number >> 96) as u32,
        b: (number >> 80) as u16,
        c: (number >> 64) as u16,
        d: [b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]],
    }
}

pub const H264: Guid = guid("6bc82762-4e63-4ca4-aa85-1e50f321f6bf");
pub const HEVC: Guid = guid("790cdc88-4522-4d7b-9425-bda9975f7603");
pub const AV1: Guid = guid("0a352289-0aa7-4759-862d-5d15cd16d254");

/// P1 to P7: of API 10 and newer.
pub const PRESETS: [Guid; 7] = [
    guid("fc0a8d3e-45f8-4cf8-80c7-298871590ebf"),
    guid("f581cfb8-88d6-4381-93f0-df13f9c27dab"),
    guid("36850110-3a07-441f-94d5-3670631f91f6"),
    guid("90a7b826-df06-4862-b9d2-cd6d73a08681"),
    guid("21c6e6b4-297a-4cba-998f-b6cbde72ade3"),
    guid("8e75c279-6299-4ab6-8302-0b215a335cf5"),
    guid("84848c12-6f71-4c13-931b-53e283f57974"),
];

const AUTO: Guid = guid("bfd6f8e7-233c-4341-8b3e-4818523803f4");

/// Profiles of a codec.
pub fn profiles(codec: &str, yuv_444: bool, depth_10: bool) -> Vec<Guid> {
    let mut all = vec![AUTO];
    match codec {
        "h264" => {
            all.push(guid("0727bcaa-78c4-4c83-8c2f-ef3dff267c6a"));
            all.push(guid("60b5c1d4-67fe-4790-94d5-c4726d7b6e6d"));
            all.push(guid("e7cbc309-4f7a-4b89-af2a-d537c92be310"));
            all.extend(yuv_444.then_some(guid("7ac663cb-a598-4960-b844-339b261a7d52")));
        }
        "hevc" => {
            all.push(guid("b514c39a-b55b-40fa-878f-f1253b4dfdec"));
            all.extend(depth_10.then_some(guid("fa4d2b6c-3a5b-411a-8018-0a3f5e3c9be5")));
            all.extend(yuv_444.then_some(guid("51ec32b5-1b4c-453c-9cbd-b616bd621341")));
        }
        _ => all.push(guid("5f2a39f5-f14e-4f95-9a9e-b76d568fcf97")),
    }
    all
}
