"""Photographs in: adapters from pictures to boxes, landmarks, coefficients, identity and labels (docs/vision.md).

`copo.vision.protocols` says what each kind of adapter offers; each adapter is a module of its own and imports the
package that it needs (an optional extra) when it is made, not before.
"""
