-- The catalogue that a new installation starts with. Only what the default site can serve is on sale; an operator puts
-- the rest on sale once hosts of that kind are there.

INSERT INTO sku_families (family_id, display_name) VALUES
  ('h200-sxm', 'NVIDIA H200 SXM'),
  ('h100-sxm', 'NVIDIA H100 SXM'),
  ('mi300x', 'AMD Instinct MI300X'),
  ('mi210', 'AMD Instinct MI210'),
  ('compute-vm', 'General purpose VM');

INSERT INTO skus (sku, vendor, display_name, family_id, family_version, resource_class, billing_unit, scheduling_unit,
  vcpu_count, memory_mib, accelerator_vendor, accelerator_model, accelerator_count, accelerator_memory_mib,
  allowed_accelerator_counts, resource_profile, unit_price_minor, currency, active)
VALUES
  ('h200-sxm-baremetal-8g', 'nvidia', '8 x H200 SXM, whole host', 'h200-sxm', '1', 'gpu_baremetal', 'gpu_hour', 'node',
    192, 2097152, 'nvidia', 'H200 SXM', 8, 144384, '{}', '{"fabric": "ib"}', 450, 'USD', true),
  ('h200-sxm-slice', 'nvidia', 'H200 SXM, by the GPU', 'h200-sxm', '1', 'gpu_slice', 'gpu_hour', 'slice',
    192, 524288, 'nvidia', 'H200 SXM', 8, 144384, '{1,2,4,8}',
    '{"fabric": "ib", "slice_vm_profiles": {
      "1": {"name": "h200_1g_24c_64g", "vcpu_count": 24, "memory_mib": 65536},
      "2": {"name": "h200_2g_48c_128g", "vcpu_count": 48, "memory_mib": 131072},
      "4": {"name": "h200_4g_96c_256g", "vcpu_count": 96, "memory_mib": 262144},
      "8": {"name": "h200_8g_192c_512g", "vcpu_count": 192, "memory_mib": 524288}}}', 450, 'USD', true),
  ('h100', 'nvidia', '8 x H100 SXM, whole host', 'h100-sxm', '1', 'gpu_baremetal', 'gpu_hour', 'node',
    192, 2097152, 'nvidia', 'H100 SXM', 8, 81559, '{}', '{}', 200, 'USD', false),
  ('mi300x', 'amd', '8 x MI300X, whole host', 'mi300x', '1', 'gpu_baremetal', 'gpu_hour', 'node',
    192, 2097152, 'amd', 'Instinct MI300X', 8, 196608, '{}', '{}', 400, 'USD', false),
  ('mi210x', 'amd', '8 x MI210, whole host', 'mi210', '1', 'gpu_baremetal', 'gpu_hour', 'node',
    128, 1048576, 'amd', 'Instinct MI210', 8, 65536, '{}', '{}', 200, 'USD', false),
  ('compute-vm-small', 'gpuaas', 'Small VM', 'compute-vm', '1', 'cpu_vm', 'node_hour', 'vm',
    4, 16384, NULL, NULL, NULL, NULL, '{}', '{}', 25, 'USD', false),
  ('compute-vm-medium', 'gpuaas', 'Medium VM', 'compute-vm', '1', 'cpu_vm', 'node_hour', 'vm',
    8, 32768, NULL, NULL, NULL, NULL, '{}', '{}', 50, 'USD', false);

INSERT INTO sku_prices (sku, unit_price_minor, currency, billing_unit, effective_from)
  SELECT sku, unit_price_minor, currency, billing_unit, created_at FROM skus;

INSERT INTO os_images (id, slug, display_name, target, image_format, source_uri, digest_sha256, default_username,
  accelerator_vendor, driver_strategy, compatible_skus, status)
VALUES
  ('5b6a2f0e-0d5c-4c8e-9a61-3c1f6b0e7a01', 'ubuntu-24.04-h200-base', 'Ubuntu 24.04 for H200, driver at first boot',
    'vm_slice', 'qcow2', 'oci://images.gpuaas.internal/ubuntu-24.04-h200-base',
    encode(sha256('ubuntu-24.04-h200-base'), 'hex'), 'ubuntu', 'nvidia', 'cloud-init', '{h200-sxm-slice}', 'active'),
  ('5b6a2f0e-0d5c-4c8e-9a61-3c1f6b0e7a02', 'ubuntu-24.04-h200-cuda', 'Ubuntu 24.04 for H200 with CUDA',
    'vm_slice', 'qcow2', 'oci://images.gpuaas.internal/ubuntu-24.04-h200-cuda',
    encode(sha256('ubuntu-24.04-h200-cuda'), 'hex'), 'ubuntu', 'nvidia', 'preinstalled', '{h200-sxm-slice}', 'active');

INSERT INTO runtime_bundles (id, slug, version, display_name, support_level, status, install_root, activation_hint,
  description, compatible_accelerators, environment)
VALUES
  ('8f1d7c52-64b0-4f3a-8e0a-2b9d51c3aa01', 'cuda-runtime', '12.8', 'CUDA runtime', 'supported', 'active',
    '/opt/gpuaas/runtimes/cuda-12.8', 'source /etc/gpuaas/runtime/cuda-runtime.env',
    'Paths of the CUDA 12.8 libraries and tools', '{nvidia}',
    '{"CUDA_HOME": "/opt/gpuaas/runtimes/cuda-12.8"}'),
  ('8f1d7c52-64b0-4f3a-8e0a-2b9d51c3aa02', 'rocm-runtime', '6.4', 'ROCm runtime', 'preview', 'active',
    '/opt/gpuaas/runtimes/rocm-6.4', 'source /etc/gpuaas/runtime/rocm-runtime.env',
    'Paths of the ROCm 6.4 libraries and tools', '{amd}',
    '{"ROCM_PATH": "/opt/gpuaas/runtimes/rocm-6.4"}');

-- The limit as it is installed: since when, and by nobody.
INSERT INTO allocation_limit_versions (id, value, created_at)
  VALUES ('3f0c1f62-0c5e-4b8b-9d43-6a1c7f0a5e01', 50, now());
