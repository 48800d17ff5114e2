//! mimalloc, asked for what is needed. A server's work is many small allocations made on one thread and
//! freed on another; the C library's allocator takes a third of its time for them.
//!
//! The `mimalloc` crate asks for every block by its alignment. For most sizes above a kilobyte, and
//! whenever a page's list of free blocks has run out, mimalloc then looks for a larger block in which to
//! align the one asked for, though all its blocks are aligned as far as nearly all types need.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{mi_malloc, mi_realloc, mi_zalloc};
use mimalloc::MiMalloc;

pub struct Allocator;

/// What blocks of this size and more are aligned to (mimalloc's `MI_MAX_ALIGN_SIZE`); smaller ones are
/// aligned to their size.
const NATURAL_ALIGNMENT: usize = 16;

fn is_natural(layout: Layout) -> bool {
    layout.align() <= NATURAL_ALIGNMENT && layout.align() <= layout.size()
}

// SAFETY: all blocks come from mimalloc, whose functions take each other's, and are at least as large as
// asked for. They are aligned as asked for: by `MiMalloc`, or as all blocks are (`is_natural`).
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises about `layout` are those needed.
        unsafe { if is_natural(layout) { mi_malloc(layout.size()).cast() } else { MiMalloc.alloc(layout) } }
    }
    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if is_natural(layout) { mi_zalloc(layout.size()).cast() } else { MiMalloc.alloc_zeroed(layout) }
        }
    }
    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is mimalloc's.
        unsafe { MiMalloc.dealloc(block, layout) }
    }
    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the block is mimalloc's, and a new one is aligned as far as `layout` says.
        unsafe {
            if layout.align() <= NATURAL_ALIGNMENT && layout.align() <= new_size {
                mi_realloc(block.cast(), new_size).cast()
            } else {
                MiMalloc.realloc(block, layout, new_size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_as_asked_for_and_keep_what_they_hold() {
        for align in [1, 2, 4, 8, 16, 32, 128, 4096] {
            for size in (1..200).chain([1000, 1025, 1100, 1280, 3000, 5000, 9000, 100_000]) {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                // SAFETY: the layout is not of size 0; the block is used within its bounds and freed once.
                unsafe {
                    let block = Allocator.alloc_zeroed(layout);
                    assert!(block.addr().is_multiple_of(align) && block.read() == 0, "{layout:?}");
                    block.write(7);
                    let larger = Allocator.realloc(block, layout, size * 2 + 3);
                    assert!(larger.addr().is_multiple_of(align) && larger.read() == 7, "{layout:?}");
                    let layout = Layout::from_size_align(size * 2 + 3, align).expect("a layout");
                    let smaller = Allocator.realloc(larger, layout, size.div_ceil(2));
                    assert!(smaller.addr().is_multiple_of(align) && smaller.read() == 7, "{layout:?}");
                    let layout = Layout::from_size_align(size.div_ceil(2), align).expect("a layout");
                    Allocator.dealloc(smaller, layout);
                    let block = Allocator.alloc(layout);
                    assert!(block.addr().is_multiple_of(align), "{layout:?}");
                    Allocator.dealloc(block, layout);
                }
            }
        }
    }
}
