//! NVDEC and NVENC, asked of the cards themselves through a CUDA context each, one card after the other.

use std::time::Duration;

use cuda::{Cuda, Device, LoadError, Nvdec, Nvenc, NvencError, NvencOpenError, OpenError, VideoCodec};
use model::{Reason, Seen};

use crate::codecs::{CodecsReport, DecodeCap, EncodeCap, GpuCodecs};
use crate::nvml_live::limited;
use crate::{Answer, Machine, MachineExt as _};

/// A context of a card without persistence takes a second and more.
const LIMIT: Duration = Duration::from_secs(30);

/// Absent: no driver runs, or its libraries are not installed.
pub(crate) fn ask(machine: &dyn Machine) -> Seen<Answer> {
    if !machine.exists("/proc/driver/nvidia") && !machine.exists("/dev/nvidiactl") {
        return Seen::Absent;
    }
    for (node, makes) in [("/dev/nvidiactl", "-c 0"), ("/dev/nvidia-uvm", "-u -c 0")] {
        if !machine.stat(node).is_there() {
            // CUDA's start would call nvidia-modprobe to make the node: looking must not change the machine.
            let why = format!("{node} is not there, and CUDA would create it; `nvidia-modprobe {makes}` does");
            return Seen::Unreadable(Reason::Other(why));
        }
    }
    limited(LIMIT, report).and_then(|report| match serde_json::to_value(report) {
        Ok(value) => Seen::Is(Answer::Json(value)),
        Err(error) => Seen::Unreadable(Reason::Other(error.to_string())),
    })
}

fn report() -> Seen<CodecsReport> {
    let cuda = match Cuda::open() {
        Ok(cuda) => cuda,
        Err(OpenError::Load(LoadError::NotFound(_))) => return Seen::Absent,
        Err(error) => return other(error),
    };
    let devices = match cuda.devices() {
        Ok(devices) => devices,
        Err(error) => return other(error),
    };
    let nvdec = Nvdec::open();
    let nvenc = Nvenc::open();
    let nvenc_api = match &nvenc {
        Ok(nvenc) => Seen::Is(nvenc.newest),
        Err(error) => not_loaded(error),
    };
    let gpus = devices.iter().map(|device| one(device, nvdec.as_ref(), nvenc.as_ref()));
    Seen::Is(CodecsReport { nvenc_api, gpus: gpus.collect() })
}

fn one(device: &Device<'_>, nvdec: Result<&Nvdec, &LoadError>, nvenc: Result<&Nvenc, &NvencOpenError>) -> GpuCodecs {
    let bus_id = device.bus_id().unwrap_or_default();
    let name = device.name().map_or_else(other, Seen::Is);
    // A context is of its thread. Both kinds of engine are asked at once: on an H100 each takes a quarter of a second.
    let (decodes, encodes) = std::thread::scope(|scope| {
        let encodes = scope.spawn(|| encoders(device, nvenc));
        let decodes = decoders(device, nvdec);
        (decodes, encodes.join().unwrap_or_else(|_| other("NVENC's reader failed")))
    });
    GpuCodecs { bus_id, name, decodes, encodes }
}

fn decoders(device: &Device<'_>, nvdec: Result<&Nvdec, &LoadError>) -> Seen<Vec<DecodeCap>> {
    let nvdec = match nvdec {
        Ok(nvdec) => nvdec,
        Err(LoadError::NotFound(_)) => return Seen::Absent,
        Err(error) => return other(error),
    };
    match device.current().and_then(|current| nvdec.decoders(&current)) {
        Ok(decoders) => Seen::Is(decoders.into_iter().map(decode_cap).collect()),
        Err(error) => other(error),
    }
}

fn encoders(device: &Device<'_>, nvenc: Result<&Nvenc, &NvencOpenError>) -> Seen<Vec<EncodeCap>> {
    let nvenc = match nvenc {
        Ok(nvenc) => nvenc,
        Err(error) => return other(error),
    };
    let current = match device.current() {
        Ok(current) => current,
        Err(error) => return other(error),
    };
    match nvenc.encoders(&current) {
        Ok(encoders) => Seen::Is(encoders.into_iter().map(encode_cap).collect()),
        Err(NvencError::NoEncoder(_)) => Seen::Absent,
        Err(error) => other(error),
    }
}

fn not_loaded<T>(error: &NvencOpenError) -> Seen<T> {
    match error {
        NvencOpenError::Load(LoadError::NotFound(_)) => Seen::Absent,
        error => other(error),
    }
}

fn other<T>(error: impl std::fmt::Display) -> Seen<T> {
    Seen::Unreadable(Reason::Other(error.to_string()))
}

fn word(codec: VideoCodec) -> String {
    let word = match codec {
        VideoCodec::Mpeg1 => "mpeg1",
        VideoCodec::Mpeg2 => "mpeg2",
        VideoCodec::Mpeg4 => "mpeg4",
        VideoCodec::Vc1 => "vc1",
        VideoCodec::H264 => "h264",
        VideoCodec::Jpeg => "jpeg",
        VideoCodec::Hevc => "hevc",
        VideoCodec::Vp8 => "vp8",
        VideoCodec::Vp9 => "vp9",
        VideoCodec::Av1 => "av1",
    };
    word.to_owned()
}

fn decode_cap(one: cuda::Decoder) -> DecodeCap {
    DecodeCap {
        codec: word(one.codec),
        chroma: one.chroma.to_owned(),
        depth: one.depth,
        engines: one.engines,
        max_width: one.max_width,
        max_height: one.max_height,
        min_width: one.min_width,
        min_height: one.min_height,
        max_macroblocks: one.max_macroblocks,
    }
}

fn encode_cap(one: cuda::Encoder) -> EncodeCap {
    EncodeCap {
        codec: word(one.codec),
        max_width: one.max_width,
        max_height: one.max_height,
        depth_10: one.depth_10,
        yuv_422: one.yuv_422,
        yuv_444: one.yuv_444,
        lossless: one.lossless,
        b_frames: one.b_frames,
        engines: one.engines,
    }
}
