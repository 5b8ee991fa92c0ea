//! What the processes of one modelled device share: a mapped file with each process's memory and the turns.

mod events;
mod file;
mod ledger;
mod liveness;
mod memory_file;
mod objects;
mod pool_file;

pub use events::{SharedEvent, SharedEvents};
pub use file::SharedDevice;
pub use ledger::{Charge, Ledger, ProcessUse};
pub use memory_file::Label;
pub use objects::Objects;
pub use pool_file::PoolLabel;
