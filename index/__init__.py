"""How are documents stored and found? Build, save, open and search one collection."""

from index.name_clash import refuse_other_kernels_package

refuse_other_kernels_package()
