"""Where each package shows a voxel: its formula in its own indices, as its code is.

Points are voxel indices (x, y, z), shapes (z, y, x) and (y, x); what comes back are
pixel indices (x, y), [n_tilts, k, 2].
"""

import numpy as np


def turn(axis, degrees):
    """Right-handed 4 x 4 rotation about x, y or z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def move(*by):
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


def imod_pixels(record, shape, image, points, turned=None):
    """tilt.f90 (1-based, rows run to -z), then the inverse of the .xf."""
    thick, _, width = shape
    # Of the aligned images, which newstack may have made of other extents.
    height, columns = image if turned is None else turned
    column = points[:, 0] + 1
    slice_number = points[:, 1] + 1
    row = thick - points[:, 2]
    xcen_in, center_slice = columns / 2.0 + 0.5, height / 2.0 + 0.5
    xcen_out = width // 2 + 0.5 + record.offset_px + record.shift_px[0]
    ycen_out = thick // 2 + 0.5 + record.shift_px[1]
    xx, yy, zz = column - xcen_out, slice_number - center_slice, row - ycen_out
    out = []
    count = len(record.angles_deg)
    x_tilts = np.zeros(count) if record.x_tilts_deg is None else record.x_tilts_deg
    for view in range(count):
        beta = np.deg2rad(record.angles_deg[view] + record.offset_deg)
        alpha = np.deg2rad(x_tilts[view] - record.x_axis_tilt_deg)
        cos_b, sin_b = np.cos(beta), -np.sin(beta)
        cos_a, sin_a = np.cos(alpha), -np.sin(alpha)
        xp = xx * cos_b + yy * sin_a * sin_b + zz * cos_a * sin_b
        xp = xp + xcen_in + record.offset_px
        yp = yy * cos_a - zz * sin_a + center_slice
        aligned = np.stack([xp - xcen_in, yp - center_slice])
        d = np.asarray(record.shifts_px)[view][:, None]
        raw = np.linalg.solve(np.asarray(record.matrices)[view], aligned - d)
        out.append(raw.T + (np.asarray(image)[::-1] - 1) / 2)
    return np.stack(out)


def aretomo_pixels(record, shape, image, points, center, turned=None):
    """GBackProj.cu, then GCorrPatchShift.cu; or CSaveXF.cpp and (n - 1) / 2."""
    raw_sides = np.asarray(image)[::-1]
    sides = raw_sides if turned is None else np.asarray(turned)[::-1]
    depth, _, width = shape
    fx, fz = points[:, 0] + 0.5 - width * 0.5, points[:, 2] + 0.5 - depth * 0.5
    out = []
    for view in range(len(record.tilts_deg)):
        theta = np.deg2rad(record.tilts_deg[view])
        aligned = fx * np.cos(theta) + fz * np.sin(theta) + sides[0] / 2.0
        if center == "imod":
            aligned = aligned - 0.5
        xy = np.stack([aligned, points[:, 1]], axis=1) + 0.5 - sides * 0.5
        xy = xy @ turn("z", record.rotations_deg[view])[:2, :2].T
        raw = xy + np.asarray(record.shifts_px)[view] + raw_sides * 0.5
        out.append(raw if center == "aretomo3" else raw - 0.5)
    return np.stack(out)


def relion_pixels(record, shape, image, points, pixel):
    """getProjectMatrices: S(centre) S(shift) Rz Ry Rx S(-centre), whole centres."""
    centre = [n // 2 for n in reversed(shape)]
    sides = [n // 2 for n in reversed(image)]
    homogeneous = np.column_stack([points, np.ones(len(points))])
    out = []
    for view in range(len(record.y_tilts_deg)):
        shift = np.asarray(record.shifts_angstrom)[view] / pixel
        matrix = (
            move(*sides, 0)
            @ move(*shift, 0)
            @ turn("z", record.z_rotations_deg[view])
            @ turn("y", record.y_tilts_deg[view])
            @ turn("x", record.x_tilts_deg[view])
            @ move(*(-n for n in centre))
        )
        out.append((homogeneous @ matrix.T)[:, :2])
    return np.stack(out)


def warp_pixels(record, shape, image, points, pixel):
    """GetPositionInAllTilts with Matrix3.Euler(0, tilt, psi) and RotateX, in A."""
    coords = points * pixel - np.asarray(shape)[::-1] * pixel / 2
    out = []
    for view in range(len(record.angles_deg)):
        tilt = np.deg2rad(record.angles_deg[view] + record.level_y_deg)
        psi = np.deg2rad(-record.axis_angles_deg[view])
        cb, sb, cg, sg = np.cos(tilt), np.sin(tilt), np.cos(psi), np.sin(psi)
        euler = np.array([[cg * cb, sg, -cg * sb], [-sg * cb, cg, sg * sb]])
        level = np.deg2rad(record.level_x_deg)
        c, s = np.cos(level), np.sin(level)
        rotate_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        at = coords @ (euler @ rotate_x).T + record.axis_offsets_angstrom[view]
        out.append(at / pixel + np.asarray(image)[::-1] / 2)
    return np.stack(out)
