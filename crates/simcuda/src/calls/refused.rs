//! Functions that clients look for at their start and that need what no CPU plays: textures, OpenGL, memory of others.
//! They are there and say CUDA_ERROR_NOT_SUPPORTED, and on stderr who asked for what.

use crate::errors::NOT_SUPPORTED;
use crate::state::{EYE, cuda};

macro_rules! refused {
    ($($name:ident)*) => {
        cuda! { table: $(
            fn $name() |_| {
                EYE.tell(concat!(stringify!($name), " is not simulated"));
                Err(NOT_SUPPORTED)
            }
        )* }
    };
}
refused! {
    cuLinkCreate cuLinkCreate_v2 cuLinkAddData cuLinkAddData_v2 cuLinkComplete cuLinkDestroy
    cuEGLStreamConsumerDisconnect cuEGLStreamProducerConnect cuEGLStreamProducerDisconnect
    cuEGLStreamProducerPresentFrame cuEGLStreamProducerReturnFrame
    cuMemAllocManaged cuMemHostAlloc cuMemAllocHost_v2 cuMemFreeHost cuMemHostRegister_v2 cuMemHostUnregister
    cuTexObjectCreate cuTexObjectDestroy cuArrayCreate_v2 cuArray3DCreate_v2 cuArrayDestroy
    cuGLGetDevices_v2 cuGraphicsGLRegisterImage cuGraphicsUnregisterResource cuGraphicsMapResources
    cuGraphicsUnmapResources cuGraphicsSubResourceGetMappedArray cuGraphicsResourceGetMappedPointer_v2
    cuImportExternalMemory cuDestroyExternalMemory cuExternalMemoryGetMappedBuffer
    cuExternalMemoryGetMappedMipmappedArray cuMipmappedArrayGetLevel cuMipmappedArrayDestroy
    cuImportExternalSemaphore cuDestroyExternalSemaphore cuSignalExternalSemaphoresAsync cuWaitExternalSemaphoresAsync
    cuPointerGetAttribute cuPointerGetAttributes cuIpcGetMemHandle cuIpcOpenMemHandle_v2 cuIpcCloseMemHandle
    cuLaunchCooperativeKernel cuLaunchKernelEx cuGraphCreate
    cuStreamBeginCapture_v2 cuMemAddressReserve cuMemCreate cuMemMap cuProfilerStart cuProfilerStop
}
