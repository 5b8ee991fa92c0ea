//! Descriptors of arrays, as the driver reads them.

/// `CU_AD_FORMAT_UNSIGNED_INT8` and `CU_AD_FORMAT_FLOAT`.
const UNSIGNED_INT8: u32 = 0x01;
const FLOAT: u32 = 0x20;

/// `CUDA_ARRAY3D_LAYERED`, `_SPARSE` and `_DEFERRED_MAPPING`.
pub const LAYERED: u32 = 0x01;
/// No memory until handles are mapped.
pub const SPARSE: u32 = 0x40;
/// No memory until one handle is mapped.
pub const DEFERRED: u32 = 0x80;

/// What an array is made of: elements a row, rows, planes (0 where there are none).
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    size: [u64; 3],
    format: u32,
    channels: u32,
    flags: u32,
}

impl Shape {
    /// Four floats, so 16 bytes, an element.
    pub fn of_float4(width: u64, height: u64, depth: u64) -> Self {
        Self { size: [width, height, depth], format: FLOAT, channels: 4, flags: 0 }
    }

    /// One byte an element.
    pub fn of_bytes(width: u64, height: u64, depth: u64) -> Self {
        Self { size: [width, height, depth], format: UNSIGNED_INT8, channels: 1, flags: 0 }
    }

    /// With these flags of three-dimensional descriptors.
    #[must_use]
    pub fn with(mut self, flags: u32) -> Self {
        self.flags |= flags;
        self
    }

    /// `CUDA_ARRAY_DESCRIPTOR_v2`.
    pub fn flat(self) -> Vec<u8> {
        let [width, height, _] = self.size.map(u64::to_le_bytes);
        [&width[..], &height, &self.format.to_le_bytes(), &self.channels.to_le_bytes()].concat()
    }

    /// `CUDA_ARRAY3D_DESCRIPTOR_v2`.
    pub fn solid(self) -> Vec<u8> {
        let mut words = self.size.map(u64::to_le_bytes).concat();
        for number in [self.format, self.channels, self.flags, 0] {
            words.extend(number.to_le_bytes());
        }
        words
    }

    /// `CUDA_ARRAY_DESCRIPTOR_v1`: sizes of 32 bits.
    pub fn flat_v1(self) -> Vec<u8> {
        let [width, height, _] = self.narrow();
        [width, height, self.format, self.channels].map(u32::to_le_bytes).concat()
    }

    /// `CUDA_ARRAY3D_DESCRIPTOR_v1`: sizes of 32 bits.
    pub fn solid_v1(self) -> Vec<u8> {
        let [width, height, depth] = self.narrow();
        [width, height, depth, self.format, self.channels, self.flags].map(u32::to_le_bytes).concat()
    }

    fn narrow(self) -> [u32; 3] {
        self.size.map(|size| u32::try_from(size).expect("a size of an old array"))
    }
}
