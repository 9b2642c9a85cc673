# What every config of ours needs: the import that registers SCSA.
custom_imports = dict(imports=['scsa'], allow_failed_imports=False)
