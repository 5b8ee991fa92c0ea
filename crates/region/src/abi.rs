//! The layouts as numbers, for the test that holds `include/cuota.h` to them. Nothing else reaches this module.

/// A structure's size and fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Its name in C.
    pub name: &'static str,
    /// Its size, bytes.
    pub bytes: usize,
    /// Its fields in order.
    pub fields: &'static [Field],
}

/// A field's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Where it begins, bytes.
    pub offset: usize,
    /// Its size, bytes.
    pub bytes: usize,
}

/// All structures.
pub const LAYOUTS: [&[Layout]; 5] = [
    crate::header::LAYOUTS,
    crate::policy::LAYOUTS,
    crate::tenant::LAYOUTS,
    crate::event::LAYOUTS,
    crate::arena::LAYOUTS,
];

/// The size of the field that `_field` leads to.
pub(crate) const fn size_of_field<S, F>(_field: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// `layout!(Struct as "name_in_c": field, field)`
macro_rules! layout {
    ($structure:ident as $name:literal: $($field:ident),* $(,)?) => {
        $crate::abi::Layout {
            name: $name,
            bytes: size_of::<$structure>(),
            fields: &[$($crate::abi::Field {
                name: stringify!($field),
                offset: core::mem::offset_of!($structure, $field),
                bytes: $crate::abi::size_of_field(|structure: &$structure| &structure.$field),
            }),*],
        }
    };
}
pub(crate) use layout;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_every_structure_fill_it_without_a_gap() {
        for layout in LAYOUTS.iter().copied().flatten() {
            let mut end = 0;
            for field in layout.fields {
                assert_eq!(field.offset, end, "{}.{}", layout.name, field.name);
                end += field.bytes;
            }
            assert_eq!(layout.bytes, end, "the end of {}", layout.name);
        }
    }
}
