//! Code for the driver to load: PTX, which NVIDIA's driver compiles and the software GPU reads.

/// A module with a global variable of so many bytes, and a kernel `idle` that does nothing; ends with a NUL.
pub fn with_variable(bytes: u64) -> Vec<u8> {
    let text = format!(
        ".version 7.0\n.target sm_70\n.address_size 64\n\
         .visible .global .align 16 .b8 variable[{bytes}];\n\
         .visible .entry idle()\n{{\n ret;\n}}\n\0"
    );
    text.into_bytes()
}

/// A module with a kernel `idle` that does nothing; ends with a NUL.
pub fn idle() -> Vec<u8> {
    b".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry idle()\n{\n ret;\n}\n\0".to_vec()
}
