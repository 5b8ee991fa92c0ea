//! Entries of an environment, one after another, each ended by NUL: none ends the reader, and whatever is a limit is one that can be kept.

#![no_main]

use cuota_region::hami::variables::Variables;
use cuota_region::policy::MemoryLimit;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut variables = Variables::none();
    data.split(|byte| *byte == 0).for_each(|entry| variables.note(entry));
    let (unreadable, ignored) = variables.complaints(false);
    assert_eq!((unreadable | ignored) & !variables.found(), 0);
    for device in 0..18 {
        let (cap, entitlement) = variables.entitle(variables.compute(device));
        assert!(entitlement.guarantee_ppm <= cap.ppm());
        match variables.memory(device) {
            MemoryLimit::Unlimited => {}
            // Nothing is granted of what cannot be read, and only of that.
            MemoryLimit::Bytes(bytes) => assert!(bytes != 0 || unreadable != 0),
            MemoryLimit::Share(ppm) => assert!((1..=1_000_000).contains(&ppm)),
        }
    }
    assert!(variables.priority() >= 0);
    assert!(variables.path().is_none_or(|path| !path.is_empty()));
});
