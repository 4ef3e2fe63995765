"""Where on the disk the folders of tasks are put: apart from one another.

ext4 puts what is made in a folder near to it, and does not give out the inode of a deleted file again for a minute, or
for five while its deletion may not be on disk yet: each new file looks at all such ones of its group first. Where tasks
come and go quickly, their folders' files are deleted as fast as they are made, and after some thousands of them a new
one takes several times as long. There is an attribute for folders whose subfolders have nothing to do with one another
(`chattr +T`): they are spread over all groups.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

#: Of <linux/fs.h>, where they are said to take a long; what they take is an int. PowerPC, MIPS, SPARC and Alpha number
#: them in another way, and refuse these.
_LONG_BYTES: Final = struct.calcsize("@l")
_GET_ATTRIBUTES: Final = 2 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 1
_SET_ATTRIBUTES: Final = 1 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 2
#: The top of hierarchies of folders.
_TOP: Final = 0x00020000
_ATTRIBUTES: Final = struct.Struct("@I")


def spread(folder: Path) -> bool:
    """Lets subfolders that are made from now on be apart; False: this file system knows no such thing, or it is not
    for us to say. Raises OSError: there is no such folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = _attributes(descriptor)
        if not before & _TOP:
            fcntl.ioctl(descriptor, _SET_ATTRIBUTES, _ATTRIBUTES.pack(before | _TOP))
        return bool(_attributes(descriptor) & _TOP)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _attributes(descriptor: int) -> int:
    data = fcntl.ioctl(descriptor, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size))
    return int(_ATTRIBUTES.unpack(data)[0])
