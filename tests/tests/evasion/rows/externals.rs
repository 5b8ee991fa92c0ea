//! External memory: half a GiB of another process, outside of the quota, that ends when the tenant holds it.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::machine::MIB;

use super::imports::{end, exported};
use super::{Row, take, trick};
use crate::TAKE;
use crate::attempt::{Attempt, Ended};

const DESTROY: &str = "cuDestroyExternalMemory";

pub(super) const ROWS: &[Row] = &[
    take("cuImportExternalMemory, then its owner ends", |t| imported(t, TAKE)),
    trick("external memory that declares 2 MiB of half a GiB, then its owner ends", |t| imported(t, 2 * MIB)),
    trick("external memory destroyed while a buffer in it is mapped, then its owner ends", |t| {
        let mut owner = t.stranger();
        let descriptor = exported(t, &mut owner)?;
        let mapped = map_and_destroy(t, descriptor);
        end(t, owner, descriptor);
        mapped
    }),
];

/// `CUDA_EXTERNAL_MEMORY_HANDLE_DESC`: type (an opaque descriptor), the descriptor, the declared size.
fn description(descriptor: u64, declared: u64) -> [u8; 104] {
    let mut description = [0; 104];
    description[0] = 1;
    description[8..16].copy_from_slice(&descriptor.to_le_bytes());
    description[24..32].copy_from_slice(&declared.to_le_bytes());
    description
}

fn imported(t: &mut Attempt<'_>, declared: u64) -> Ended {
    let mut owner = t.stranger();
    let descriptor = exported(t, &mut owner)?;
    let description = description(descriptor, declared);
    let imported = t.keep("cuImportExternalMemory", &[Out(8), At(&description)], DESTROY);
    end(t, owner, descriptor);
    imported.map(drop)
}

fn map_and_destroy(t: &mut Attempt<'_>, descriptor: u64) -> Ended {
    let description = description(descriptor, TAKE);
    let memory = t.make("cuImportExternalMemory", &[Out(8), At(&description)])?;
    // CUDA_EXTERNAL_MEMORY_BUFFER_DESC: from its begin, a block.
    let mut buffer = [0; 88];
    buffer[8..16].copy_from_slice(&(2 * MIB).to_le_bytes());
    let arguments = [Out(8), Is(memory), At(&buffer)];
    let mapped = t.keep("cuExternalMemoryGetMappedBuffer", &arguments, "cuMemFree_v2");
    t.done(DESTROY, &[Is(memory)])?;
    mapped.map(drop)
}
