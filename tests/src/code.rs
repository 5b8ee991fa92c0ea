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

/// A module with a kernel `framed` whose threads have a local frame of so many bytes; ends with a NUL.
///
/// The address of the frame goes through an instruction that no compiler may leave out.
pub fn with_frame(bytes: u64) -> Vec<u8> {
    let text = format!(
        ".version 7.0\n.target sm_70\n.address_size 64\n\
         .visible .entry framed()\n{{\n .local .align 16 .b8 frame[{bytes}];\n .reg .b64 %rd<4>;\n .reg .b32 %r<2>;\n\
         mov.u64 %rd1, frame;\n cvta.local.u64 %rd2, %rd1;\n mov.u32 %r1, 7;\n\
         st.volatile.u32 [%rd2], %r1;\n ret;\n}}\n\0"
    );
    text.into_bytes()
}

/// A module with a kernel `calls` that allocates from the device's heap; ends with a NUL.
pub fn with_malloc() -> Vec<u8> {
    let text = ".version 7.0\n.target sm_70\n.address_size 64\n\
         .extern .func (.param .b64 result) malloc (.param .b64 bytes);\n\
         .visible .entry calls()\n{\n .reg .b64 %rd<3>;\n mov.u64 %rd1, 64;\n {\n .param .b64 bytes;\n .param .b64 result;\n\
         st.param.b64 [bytes], %rd1;\n call.uni (result), malloc, (bytes);\n ld.param.b64 %rd2, [result];\n }\n ret;\n}\n\0";
    text.as_bytes().to_vec()
}

/// What [`with_printf`]'s kernel prints.
pub const PRINTED: &str = "ok";

/// A module with a kernel `calls` that prints a line, [`PRINTED`]; ends with a NUL.
pub fn with_printf() -> Vec<u8> {
    let text = ".version 7.0\n.target sm_70\n.address_size 64\n\
         .extern .func (.param .b32 result) vprintf (.param .b64 format, .param .b64 values);\n\
         .global .align 1 .b8 format[4] = {111, 107, 10, 0};\n\
         .visible .entry calls()\n{\n .reg .b64 %rd<3>;\n .reg .b32 %r<2>;\n mov.u64 %rd1, format;\n\
         cvta.global.u64 %rd2, %rd1;\n mov.u64 %rd1, 0;\n {\n .param .b64 format;\n .param .b64 values;\n .param .b32 result;\n\
         st.param.b64 [format], %rd2;\n st.param.b64 [values], %rd1;\n call.uni (result), vprintf, (format, values);\n\
         ld.param.b32 %r1, [result];\n }\n ret;\n}\n\0";
    text.as_bytes().to_vec()
}
