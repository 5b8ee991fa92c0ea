//! Modules and libraries with large global variables.

use std::path::PathBuf;

use cuota_tests::console::Arg::{At, Is, Out, Text};
use cuota_tests::{build, code};

use super::{Row, take};
use crate::TAKE;
use crate::attempt::Attempt;

const UNLOAD: &str = "cuModuleUnload";

pub(super) const ROWS: &[Row] = &[
    take("cuModuleLoadData, global variable", |t| {
        t.keep("cuModuleLoadData", &[Out(8), At(&image())], UNLOAD).map(drop)
    }),
    take("cuModuleLoadDataEx, global variable", |t| {
        t.keep("cuModuleLoadDataEx", &[Out(8), At(&image()), Is(0), Is(0), Is(0)], UNLOAD).map(drop)
    }),
    take("cuModuleLoadFatBinary, global variable", |t| {
        t.keep("cuModuleLoadFatBinary", &[Out(8), At(&image())], UNLOAD).map(drop)
    }),
    take("cuModuleLoad, global variable", |t| {
        let path = file();
        let path = path.to_str().expect("the target folder has a plain name");
        t.keep("cuModuleLoad", &[Out(8), Text(path)], UNLOAD).map(drop)
    }),
    take("cuLibraryLoadData, then cuLibraryGetGlobal", |t| {
        let library = library(t)?;
        t.done("cuLibraryGetGlobal", &[Out(8), Out(8), Is(library), Text("variable")])
    }),
    take("cuLibraryLoadData, then cuLibraryGetModule", |t| {
        let library = library(t)?;
        t.done("cuLibraryGetModule", &[Out(8), Is(library)])
    }),
    take("cuLibraryLoadData, then cuKernelGetFunction", |t| {
        let library = library(t)?;
        let kernel = t.make("cuLibraryGetKernel", &[Out(8), Is(library), Text("idle")])?;
        t.done("cuKernelGetFunction", &[Out(8), Is(kernel)])
    }),
    take("cuLibraryLoadData, then a launch", |t| {
        let library = library(t)?;
        let kernel = t.make("cuLibraryGetKernel", &[Out(8), Is(library), Text("idle")])?;
        super::launches::launch(t, kernel)
    }),
    take("cuLibraryLoadFromFile, then cuLibraryGetGlobal", |t| {
        let path = file();
        let path = Text(path.to_str().expect("the target folder has a plain name"));
        let none = Is(0);
        let library = t.keep(
            "cuLibraryLoadFromFile",
            &[Out(8), path, none, none, none, none, none, none],
            "cuLibraryUnload",
        )?;
        t.done("cuLibraryGetGlobal", &[Out(8), Out(8), Is(library), Text("variable")])
    }),
];

fn image() -> Vec<u8> {
    code::with_variable(TAKE)
}

/// The image in a file. Written by each run: its content never changes.
fn file() -> PathBuf {
    let path = build::scratch().join("with-variable.ptx");
    if !path.exists() {
        let unfinished = path.with_extension(std::process::id().to_string());
        let image = image();
        std::fs::write(&unfinished, &image[..image.len() - 1])
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .expect("the target folder is writable");
    }
    path
}

fn library(t: &mut Attempt<'_>) -> Result<u64, i64> {
    let (image, none) = (image(), Is(0));
    let arguments = [Out(8), At(&image), none, none, none, none, none, none];
    t.keep("cuLibraryLoadData", &arguments, "cuLibraryUnload")
}

/// A module from an image of the row's own; for rows that launch its kernels.
pub(super) fn kernel(t: &mut Attempt<'_>, image: &[u8], name: &str) -> Result<u64, i64> {
    let module = t.keep("cuModuleLoadData", &[Out(8), At(image)], UNLOAD)?;
    t.make("cuModuleGetFunction", &[Out(8), Is(module), Text(name)])
}

/// Loads the image of all rows as a module: its variable's address.
pub(super) fn load(t: &mut Attempt<'_>) -> Result<u64, i64> {
    let module = t.keep("cuModuleLoadData", &[Out(8), At(&image())], UNLOAD)?;
    t.make("cuModuleGetGlobal_v2", &[Out(8), Out(8), Is(module), Text("variable")])
}
